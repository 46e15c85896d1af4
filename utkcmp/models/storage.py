"""Saving a trained model to its folder, and loading from untrusted folders."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from utkcmp.files import atomic, read_json, read_table, write_csv, write_json
from utkcmp.models.backbones import misfit
from utkcmp.models.networks import MODELS, FaceByFace, PairEnsemble, build_model, options_of
from utkcmp.params import Params, check


def save_model(model: nn.Module, folder: Path, *, settings: dict, history: pd.DataFrame) -> None:
    """Write history.csv, model.safetensors and, last as it marks completion, config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in ("config.json", "calibration.json"):  # of earlier weights
        (folder / stale).unlink(missing_ok=True)
    write_csv(history, folder / "history.csv")
    with atomic(folder / "model.safetensors") as temporary:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary)
    write_json({**model.config, "settings": settings}, folder / "config.json")


def load_model(folder: str | Path) -> nn.Module:
    """Load a model from its folder, in evaluation mode on the CPU.

    Half-precision weights become float32. Nothing in the folder is executed. Raises ValueError if
    files are missing, damaged or inconsistent.
    """
    folder = Path(folder)
    config = read_config(folder)
    model = build_model(config["model"], **{**config["options"], "weights": None})
    model.config["options"] = config["options"]
    with _readable(folder, "model.safetensors"):
        weights = load_file(folder / "model.safetensors")
        if wrong := misfit(model.state_dict(), weights):
            raise ValueError(f"no weights for this {config['model']}: {wrong}")
    model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last).eval()


def read_config(folder: Path) -> dict:
    """A model's config.json: its class ``model`` with validated ``options``, and ``settings``.

    Raises ValueError as ``load_model`` does.
    """
    with _readable(folder, "config.json"):
        config = read_json(folder / "config.json")
        _size_as_option(config)
        _check_network(config["model"], config["options"])
    return config


def _size_as_option(config: dict) -> None:
    """Convert configs of up to version 0.2, with ``image_size`` beside the options."""
    members = config["options"].get("members", [])
    for member in members:
        _size_as_option(member)
    if (size := config.pop("image_size", None)) is not None and not members:
        config["options"]["image_size"] = size


@contextlib.contextmanager
def _readable(folder: Path, name: str) -> Iterator[None]:
    """Turn any error from a missing or broken file of a model into a ValueError."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{folder} holds no finished model: expected config.json and model.safetensors, "
            f"{error.strerror or error}"
        ) from None
    except Exception as error:
        if isinstance(error, KeyError):
            reason = f"{name} states no {error}"
        elif isinstance(error, TypeError | AttributeError):
            reason = f"{name} does not describe a model"
        else:
            first, *_ = str(error).split("\n")
            reason = f"{name}, {first}"
        raise ValueError(f"the model in {folder} cannot be read: {reason}") from None


def _check_network(name: str, options: dict) -> None:
    if unknown := sorted(options.keys() - options_of(name).keys()):
        raise ValueError(f"{name} has no option {unknown[0]!r}")
    if name == PairEnsemble.__name__:
        if not options["members"]:
            raise ValueError(f"{name} has no members")
        for member in options["members"]:
            network = MODELS.get(member["model"], FaceByFace)  # an unknown one is refused below
            if member["model"] == name or not issubclass(network, FaceByFace):
                raise ValueError(f"{name} holds a {member['model']}")
            _check_network(member["model"], member["options"])
        return
    if not isinstance(options.get("blind", False), bool):
        raise ValueError(f"option blind is {options['blind']!r}, expected true or false")
    known = {key: options[key] for key in options if key in Params.model_fields}
    check(known | {"image_size": options["image_size"], "weights": None})


def read_history(folder: Path) -> pd.DataFrame:
    """A model's history.csv (see ``solver.Fitted``). Raises RunError if it is damaged."""
    return read_table(folder / "history.csv", ["epoch", "val_loss"], ["epoch", "val_loss"])
