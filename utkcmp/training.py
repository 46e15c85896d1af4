"""What a run trains beside its notebooks' main models: as its parameters say, one thing changed."""

import copy

import torch
from torch import nn

from utkcmp.datasets import RunData
from utkcmp.inference import embeds_once
from utkcmp.models import build_model
from utkcmp.run import Run
from utkcmp.solver import Fitted, fit, fit_options


def fit_variant(
    name: str,
    run: Run,
    data: RunData,
    model: str | nn.Module = "SiameseResNet",
    **changes,
) -> Fitted:
    """Train a pair model as the run says, but for ``changes``, which are options of ``fit``.

    name: the folder below ``models/``. data: faces and parameters. model: its name, to be built
    from the parameters with the seed that training gets, or one that is built.
    """
    p = data.params
    torch.manual_seed(changes.get("seed", p.seed))
    if isinstance(model, str):
        model = build_model(model, **p.model_dump())
    by_faces = p.pairing == "batch" and embeds_once(model)
    options = fit_options(p) | {
        "train": data.rows("train") if by_faces else data.pairs("train"),
        "val": data.pairs("val"),
    }
    return fit(
        model,
        data.images,
        data.ages,
        folder=run.model(name),
        tensorboard=run.tensorboard(name),
        **options | changes,
    )


def fit_larger(run: Run, data: RunData, model: nn.Module) -> Fitted:
    """Train a trained pair model on, with faces of ``finetune_size`` pixels a side.

    Convolutions take any size, so a network learns most of what it will know from small faces, at a
    fraction of the cost, and ends at the size at which it is to answer (Touvron et al. 2019,
    "Fixing the train-test resolution discrepancy"). The model handed over stays as it is.
    """
    p = data.params
    epochs = {"epochs": p.finetune_epochs, "patience": p.finetune_epochs}
    larger, model = data.at(p.finetune_size), copy.deepcopy(model)
    return fit_variant("siamese_large", run, larger, model, lr=p.finetune_lr, **epochs)


def fit_regressor(data: RunData, run: Run, backbone: str) -> Fitted:
    """Train (or read) the run's age regressor, whose features the transfer model takes.

    One exists for each backbone, in ``models/age_regressor_<backbone>``.
    """
    p, name = data.params, f"age_regressor_{backbone}"
    torch.manual_seed(p.seed)
    model = build_model(
        "ResNetAgeRegressor", backbone=backbone, weights=p.weights, age_loss=p.age_loss
    )
    model.set_ages(data.ages[data.rows("train")])
    options = fit_options(p) | {
        "epochs": p.regressor_epochs,
        "batch_size": p.regressor_batch_size,
        "lr": p.regressor_lr,
        "steps_per_epoch": None,
    }
    return fit(
        model,
        data.images,
        data.ages,
        train=data.rows("train"),
        val=data.rows("val"),
        folder=run.model(name),
        tensorboard=run.tensorboard(name),
        **options,
    )
