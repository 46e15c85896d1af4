"""Training with Lightning: a model and data in, the best epoch's weights and a history out."""

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from utkcmp.data.pairs import Pairs
from utkcmp.files import read_json
from utkcmp.models.inference import pick_device
from utkcmp.models.networks import FaceByFace, ResNetAgeRegressor, resized_copy
from utkcmp.models.storage import load_model, read_history, save_model
from utkcmp.training.settings import DivergedError, Settings


@dataclass
class Fitted:
    """A trained model with the best epoch's weights, in evaluation mode.

    history: one row per epoch (epoch, train_loss, train_accuracy, train_auc, val_loss, ..., lr,
    seconds); reused: the finished model was read from its folder.
    """

    model: nn.Module
    history: pd.DataFrame
    reused: bool

    @property
    def seconds(self) -> float:
        return float(self.history.seconds.sum())

    @property
    def best(self) -> pd.Series:
        return self.history.loc[self.history.val_loss.idxmin()]


def fit(
    model: nn.Module,
    data,
    settings: Settings,
    *,
    train: Pairs | np.ndarray,
    val: Pairs | np.ndarray,
    folder: str | Path,
    tensorboard: Path | None = None,
    features: Tensor | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> Fitted:
    """Train a copy of a model made by ``build_model`` and keep the weights of its best epoch.

    data: has ``images``, uint8 (N, 3, S, S), and ``ages``, float32 (N,) years, as a ``RunData``.
    train: Pairs, for batches of pairs, or rows (int64), for batches of faces, of which every pair
    at least ``year_diff`` years apart is scored or, by an age regressor, each face. val: Pairs, or
    rows for an age regressor. tensorboard: folder of the event files, without faces if
    ``show_faces`` is false. features: float32 (N, D), a frozen model's features of all images, if
    already known. on_epoch: called after each epoch with its row of the history.

    A finished model in ``folder`` with the same settings and data is read instead, unless
    ``retrain``; an unfinished training is resumed; anything else is replaced.

    On a CPU the same arguments give bitwise the same weights, interrupted or not, on the same
    machine with the same number of threads. On a GPU they do not: some kernels sum in a varying
    order and cuDNN chooses algorithms at run time, differences that bf16 amplifies.

    Raises DivergedError if the loss is no longer finite (the folder then holds the best weights so
    far) and ValueError instead of training the finished model of ``folder`` further.
    """
    if isinstance(train, np.ndarray) and not isinstance(model, ResNetAgeRegressor | FaceByFace):
        raise ValueError(
            f"{model.config['model']} sees two faces at once and cannot be trained on all pairs of "
            "a batch: set pairing to 'list'"
        )
    from utkcmp.training.lightning_module import Task, train_here, train_in_processes

    folder, device = Path(folder), pick_device(settings.device)
    settings = settings.model_copy(update={"precision": pick_precision(settings.precision, device)})
    model = resized_copy(model, data.images.shape[-1])
    made = settings.stored() | {"start": model_digest(model), "data": digest(data, train, val)}
    before = _settings(folder / "config.json")
    if before and before["start"] != made["start"] and _holds(folder, model):
        made["start"] = before["start"]
        if settings.retrain or before != made:
            raise ValueError(
                f"the model handed over is the one that {folder.name}/ holds, already trained: "
                "build it anew to train it otherwise"
            )
    if before == made and not settings.retrain:
        fitted = Fitted(load_model(folder), read_history(folder), reused=True)
        if (folder / "last.ckpt").exists():  # killed while writing for TensorBoard
            _conclude(fitted, data, val, settings, folder, tensorboard)
        return fitted
    checkpoint = _checkpoint(folder, made)
    if tensorboard and not checkpoint:
        shutil.rmtree(tensorboard, ignore_errors=True)
    # Lightning does not change the mode. Convolutions are fastest channels-last.
    model.train().to(memory_format=torch.channels_last)
    task = Task(model, data, train, val, settings, made, features, on_epoch)
    train_task = train_here if settings.devices == 1 else train_in_processes
    try:
        train_task(task, folder, checkpoint, tensorboard)
    except DivergedError as error:
        if not (folder / "best.ckpt").exists():
            raise
        fitted = _keep_best(model, folder, made | {"diverged": str(error)})
        _remove_checkpoints(folder)
        message = f"{error}; {folder.name}/ holds the best weights before it, of epoch"
        raise DivergedError(f"{message} {fitted.best.epoch:.0f}") from None
    fitted = _keep_best(model, folder, made)
    _conclude(fitted, data, val, settings, folder, tensorboard)
    return fitted


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve ``auto``: bf16 if the device has its instructions (emulated, it is slow), else 32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = torch.cpu.get_capabilities()
        able = found.get("avx512_bf16", False) or found.get("amx_bf16", False)
    return "bf16" if able else "32"


def digest(data, *parts: Pairs | np.ndarray) -> str:
    """A hash of the downsampled images, the ages, and pairs or rows of them."""
    images = data.images
    arrays = [images[:, :, ::8, ::8].numpy(), data.ages.numpy()]
    for part in parts:
        arrays += [part] if isinstance(part, np.ndarray) else [part.left, part.right, part.label]
    return joblib.hash([tuple(images.shape), *map(np.ravel, arrays)])


def model_digest(model: nn.Module) -> str:
    """A hash of a model's config and weights."""
    weights = [tensor.cpu().numpy().ravel() for tensor in model.state_dict().values()]
    return joblib.hash([json.dumps(model.config, sort_keys=True), *weights])


def _settings(path: Path) -> dict | None:
    """The settings in a finished model's config.json; None if there is none."""
    try:
        settings = read_json(path)["settings"]
        return settings if "start" in settings else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holds(folder: Path, model: nn.Module) -> bool:
    """Whether ``model`` is the folder's finished model."""
    try:
        return model_digest(load_model(folder)) == model_digest(model)
    except ValueError:
        return False


def _checkpoint(folder: Path, made: dict) -> Path | None:
    """The checkpoint to resume from; one with other settings, damaged or unsafe is removed."""
    last, best = folder / "last.ckpt", folder / "best.ckpt"
    with contextlib.suppress(Exception):  # a damaged or hostile file can raise anything
        if _load(last)["made"] == made and _load(best):
            return last
    _remove_checkpoints(folder)
    return None


def _load(checkpoint: Path) -> dict:
    return torch.load(checkpoint, map_location="cpu", weights_only=True)


def _remove_checkpoints(folder: Path) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        (folder / name).unlink(missing_ok=True)


def _keep_best(model: nn.Module, folder: Path, made: dict) -> Fitted:
    """Load the best epoch's weights into ``model`` and save it."""
    best, last = _load(folder / "best.ckpt"), _load(folder / "last.ckpt")
    prefix = "average.module." if made["ema"] else "model."
    weights = best["state_dict"].items()
    model.load_state_dict({k.removeprefix(prefix): v for k, v in weights if k.startswith(prefix)})
    history = pd.DataFrame(last["history"])
    save_model(model.to("cpu").eval(), folder, settings=made, history=history)
    return Fitted(model, history, reused=False)


def _conclude(fitted: Fitted, data, val, settings: Settings, folder: Path, tensorboard) -> None:
    if tensorboard:
        from utkcmp.training.tensorboard import write_boards

        write_boards(tensorboard, fitted, data, val, settings)
    _remove_checkpoints(folder)
