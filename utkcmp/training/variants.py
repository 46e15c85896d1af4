"""What a run trains beside its notebooks' main models: as its parameters say, one thing changed."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from utkcmp.data.datasets import RunData
from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.registry import FOLDERS
from utkcmp.evaluation.results import results_table, validate_and_test
from utkcmp.models.inference import apply_rows, embeds_once, pick_device
from utkcmp.models.networks import build_model
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
    on_epoch: Callable[[dict], None] | None = None,
    boards: bool = True,
    **changes,
) -> Fitted:
    """Train a pair model as the run says, but for ``changes`` of parameters, whichever they are.

    name: the folder below ``models/``. data: faces and parameters. model: its name, to be built
    from the parameters with their seed, or one that is built. train: what it learns from, by
    default what ``pairing`` says. features, on_epoch: as in ``fit``. boards: write for
    TensorBoard.
    """
    check_names(changes)
    p = check(data.params.model_dump() | changes)
    if isinstance(model, str):
        torch.manual_seed(p.seed)
        model = build_model(model, **p.model_dump())
    if train is None:
        by_faces = p.pairing == "batch" and embeds_once(model)
        train = data.rows("train") if by_faces else data.pairs("train")
    return fit(
        model,
        data,
        Settings.of(p),
        train=train,
        val=data.pairs("val"),
        folder=run.model(name),
        tensorboard=run.tensorboard(name) if boards else None,
        features=features,
        on_epoch=on_epoch,
    )


def fit_pretrained(run: Run, data: RunData) -> Fitted:
    """Train the run's ``RankingAgeRegressor``, with the run's parameters but for ``pretrained``."""
    changes = data.params.pretrained
    size = changes.get("image_size", data.params.image_size)
    name = "RankingAgeRegressor"
    return fit_variant(FOLDERS[name], run, data.at(size), name, **changes)


def fit_regressor(data: RunData, run: Run, backbone: str) -> Fitted:
    """Train (or read) the run's age regressor, whose features the transfer model takes.

    One exists for each backbone, in ``models/age_regressor_<backbone>``.
    """
    p, name = data.params, f"age_regressor_{backbone}"
    torch.manual_seed(p.seed)
    model = build_model(
        "ResNetAgeRegressor",
        backbone=backbone,
        weights=p.weights_of(backbone),
        age_loss=p.age_loss,
    )
    model.set_ages(data.ages[data.rows("train")])
    changes = {"epochs": p.regressor_epochs, "lr": p.regressor_lr, "steps_per_epoch": None}
    return fit(
        model,
        data,
        Settings.of(p, batch_size=p.regressor_batch_size, **changes),
        train=data.rows("train"),
        val=data.rows("val"),
        folder=run.model(name),
        tensorboard=run.tensorboard(name),
    )


def transfer_model(regressor: nn.Module, params: Params, blind: bool = False) -> nn.Module:
    """A ``SiameseResNetAge`` with the weights of an age regressor and a new head.

    regressor: one that was trained, or that of the peer (``evaluation.load_peer``). blind: both
    inputs are the left face, see models.py.
    """
    torch.manual_seed(params.seed)
    same = {name: regressor.config["options"][name] for name in ("backbone", "age_loss")}
    model = build_model("SiameseResNetAge", blind=blind, **params.model_dump() | same)
    model.regressor.load_state_dict(regressor.state_dict())
    return model


def frozen_features(model: nn.Module, data: RunData) -> Tensor:
    """A frozen model's features of all faces, float32 (N, D) on the CPU, for every fit of its head.

    The model ends on the CPU and in evaluation mode.
    """
    device = pick_device(data.params.device)
    model.eval().to(device, memory_format=torch.channels_last)
    features = apply_rows(model.embed, data.images, np.arange(len(data.images)))
    model.to("cpu")
    return features


def repeat(name: str, run: Run, data: RunData) -> None:
    """Train a pair model again with each of ``seeds``, and put what it reaches into results.csv.

    name: as in results.csv. A seed decides the initial weights and the order of the batches; the
    faces and the pairs stay. Models lie beside the run's own, as ``<folder>_seed<k>``.
    """
    for seed in dict.fromkeys(data.params.seeds):
        if seed != data.params.seed:
            fitted = fit_variant(f"{FOLDERS[name]}_seed{seed}", run, data, name, seed=seed)
            rows = validate_and_test(name, fitted.model, data, data.params.resamples, seed)
            run.add_results(results_table(rows))


def faces_per_epoch(data: RunData, by_pairs: bool = False) -> int:
    """How many faces an epoch of the run's training shows the network, a face of two pairs twice.

    by_pairs: the training takes the fixed list, whatever ``pairing`` says.
    """
    p, pairs, faces = data.params, len(data.pairs("train")), len(data.rows("train"))
    each, count = (2, pairs) if by_pairs or p.pairing == "list" else (1, faces)
    batch = min(p.batch_size, count)
    return each * batch * min(p.steps_per_epoch or count, count // batch)
