"""Trainings with a run's parameters, and with some of them changed."""

import numpy as np
import torch
from torch import Tensor, nn

from utkcmp.data.datasets import RunData
from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.registry import FOLDERS
from utkcmp.evaluation.results import results_table, validate_and_test
from utkcmp.models.inference import apply_rows, embeds_once, pick_device
from utkcmp.models.networks import ResNetAgeRegressor, build_model
from utkcmp.params import Params, check, check_names
from utkcmp.run import Run
from utkcmp.training.settings import Settings
from utkcmp.training.solver import Fitted, fit


def fit_variant(
    name: str,
    run: Run,
    data: RunData,
    model: str | nn.Module = "SiameseResNet",
    *,
    train: Pairs | np.ndarray | None = None,
    features: Tensor | None = None,
    boards: bool = True,
    **changes,
) -> Fitted:
    """Train a model with the run's parameters and ``changes`` of any of them.

    name: the folder below ``models/``. model: a name, to build from the parameters in ``data``, or
    a model. train: by default as ``pairing`` says. features: see ``fit``. boards: for TensorBoard.
    """
    check_names(changes)
    p = check(data.params.model_dump() | changes)
    if isinstance(model, str):
        torch.manual_seed(p.seed)
        model = build_model(model, **p.model_dump())
    if train is None:
        by_faces = p.pairing == "batch" and embeds_once(model)
        train = data.rows("train") if by_faces else data.pairs("train")
    val = data.rows("val") if isinstance(model, ResNetAgeRegressor) else data.pairs("val")
    kept = {"folder": run.model(name), "tensorboard": run.tensorboard(name) if boards else None}
    return fit(model, data, Settings.of(p), train=train, val=val, features=features, **kept)


def fit_pretrained(run: Run, data: RunData) -> Fitted:
    """Train the run's ``RankingAgeRegressor``, with the changed parameters in ``pretrained``."""
    name, changes = "RankingAgeRegressor", data.params.pretrained
    size = changes.get("image_size", data.params.image_size)
    return fit_variant(FOLDERS[name], run, data.at(size), name, **changes)


def fit_regressor(data: RunData, run: Run, backbone: str) -> Fitted:
    """Train (or read) the run's age regressor, in ``models/age_regressor_<backbone>``."""
    p, name, rows = data.params, f"age_regressor_{backbone}", data.rows("train")
    torch.manual_seed(p.seed)
    options = {"backbone": backbone, "weights": p.weights_of(backbone)}
    model = build_model("ResNetAgeRegressor", age_loss=p.age_loss, mirror=p.mirror, **options)
    model.set_ages(data.ages[rows])
    changes = {"epochs": p.regressor_epochs, "batch_size": p.regressor_batch_size}
    changes |= {"lr": p.regressor_lr, "steps_per_epoch": None}
    return fit_variant(name, run, data, model, train=rows, **changes)


def transfer_model(regressor: nn.Module, params: Params, blind: bool = False) -> nn.Module:
    """A ``SiameseResNetAge`` with the weights of an age regressor and a new head.

    regressor: a trained one or the peer's (``evaluation.load_peer``). blind: the left face twice.
    """
    torch.manual_seed(params.seed)
    same = {name: regressor.config["options"][name] for name in ("backbone", "age_loss")}
    model = build_model("SiameseResNetAge", blind=blind, **params.model_dump() | same)
    model.regressor.load_state_dict(regressor.state_dict())
    return model


def frozen_features(model: nn.Module, data: RunData) -> Tensor:
    """A frozen model's features of all faces, float32 (N, D), on the CPU, where it leaves the model
    in evaluation mode."""
    device = pick_device(data.params.device)
    model.eval().to(device, memory_format=torch.channels_last)
    features = apply_rows(model.embed, data.images, np.arange(len(data.images)))
    model.to("cpu")
    return features


def repeat(name: str, run: Run, data: RunData) -> None:
    """Train a pair model again with each of ``seeds``, and add its results to results.csv.

    name: as in results.csv. A seed decides the initial weights and the order of the batches, not
    the faces and pairs. Models are saved as ``<folder>_seed<k>``.
    """
    for seed in dict.fromkeys(data.params.seeds):
        if seed != data.params.seed:
            fitted = fit_variant(f"{FOLDERS[name]}_seed{seed}", run, data, name, seed=seed)
            rows = validate_and_test(name, fitted.model, data, data.params.resamples, seed)
            run.add_results(results_table(rows))


def faces_per_epoch(data: RunData, by_pairs: bool = False) -> int:
    """The faces the network sees in an epoch of the run's training, two for each pair of a list.

    by_pairs: train on the fixed list, whatever ``pairing`` says.
    """
    p = data.params
    if by_pairs or p.pairing == "list":
        return 2 * pairs_per_epoch(data, p.batch_size)
    return _per_epoch(len(data.rows("train")), p.batch_size, p.steps_per_epoch)


def pairs_per_epoch(data: RunData, batch_size: int) -> int:
    """The training pairs of an epoch from the fixed list."""
    return _per_epoch(len(data.pairs("train")), batch_size, data.params.steps_per_epoch)


def _per_epoch(count: int, batch_size: int, steps: int | None) -> int:
    batch = min(batch_size, count)
    return batch * min(steps or count, count // batch)
