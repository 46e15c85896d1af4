"""What a run trains beside its notebooks' main models: as its parameters say, one thing changed."""

import copy
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from utkcmp.data.datasets import RunData
from utkcmp.data.pairs import Pairs
from utkcmp.data.split import split_faces
from utkcmp.evaluation.metrics import pair_metrics
from utkcmp.evaluation.registry import FOLDERS, larger_name
from utkcmp.evaluation.results import Evaluated, evaluate_pairs
from utkcmp.files import read_table, write_csv
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
    **changes,
) -> Fitted:
    """Train a pair model as the run says, but for ``changes`` of parameters, whichever they are.

    name: the folder below ``models/``. data: faces and parameters. model: its name, to be built
    from the parameters with their seed, or one that is built. train: what it learns from, by
    default what ``pairing`` says. features, on_epoch: as in ``fit``.
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
        tensorboard=run.tensorboard(name),
        features=features,
        on_epoch=on_epoch,
    )


def fit_larger(run: Run, data: RunData, model: nn.Module) -> dict[int, Fitted]:
    """Train a trained pair model on with larger faces, as ``finetune`` says; by pixels a side.

    Convolutions take any size, so a network learns most of what it will know from small faces, at a
    fraction of the cost, and ends at the size at which it is to answer (Touvron et al. 2019,
    "Fixing the train-test resolution discrepancy"). Each size begins where the one before it ended;
    the model handed over stays as it is.
    """
    p, fitted = data.params, {}
    for size, epochs in p.finetune.items():
        fitted[size] = fit_variant(
            larger_name(size)[1],
            run,
            data.at(size),
            model,
            epochs=epochs,
            patience=epochs,
            lr=p.finetune_lr,
            steps_per_epoch=p.finetune_steps,
        )
        model = fitted[size].model
    return fitted


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


def fit_other_pairing(run: Run, data: RunData, epochs: int) -> Fitted:
    """Train the Siamese model with the pairing that the run does *not* use, at the same cost.

    A step embeds as many faces, 2 a pair of the fixed list, and there are as many steps as in
    ``epochs`` epochs of the run's own training. No early stopping.
    """
    p, rows, pairs = data.params, data.rows("train"), data.pairs("train")
    if p.pairing == "batch":
        train, size = pairs, p.batch_size // 2
        steps = min(p.steps_per_epoch or len(rows), len(rows) // min(p.batch_size, len(rows)))
    else:
        train, size = rows, 2 * p.batch_size
        own_steps = len(pairs) // min(p.batch_size, len(pairs))
        own_steps = min(p.steps_per_epoch or own_steps, own_steps)
        steps = max(1, len(rows) // min(size, len(rows)))
        epochs = max(1, round(epochs * own_steps / steps))
    changes = {"train": train, "batch_size": size, "steps_per_epoch": steps, "epochs": epochs}
    return fit_variant("siamese_other_pairing", run, data, patience=epochs, **changes)


def plainly_split(data: RunData) -> RunData:
    """The same faces in the course project's plain split, in which duplicates leak."""
    p, leaky = data.params, copy.copy(data)
    split = split_faces(data.faces, p.train, p.val, p.test, p.seed, leaky=True)
    leaky.faces = data.faces.assign(split=split)
    return leaky


def leak_contrast(one: Evaluated, data: RunData) -> pd.DataFrame:
    """Accuracy and AUC on all test pairs with and without a face whose picture was trained on.

    one: all-pairs answers of a model trained on ``data``. One row each, with the number of pairs.
    """
    faces = data.faces
    known = faces.group.isin(faces.group[faces.split == "train"]).to_numpy()
    some = known[one.pairs.left] | known[one.pairs.right]
    rows = {}
    for name, chosen in (("a face trained on", some), ("only new faces", ~some)):
        pairs = one.pairs[chosen]
        rows[name] = {"pairs": len(pairs)}
        if len(pairs):
            rows[name] |= pair_metrics(one.logits[chosen], pairs.label)
    return pd.DataFrame.from_dict(rows, orient="index")


METRICS = ["accuracy", "auc"]


def repeat(name: str, run: Run, data: RunData, own: list[Evaluated]) -> pd.DataFrame:
    """Train a model again with each of ``seeds`` and on each of ``split_seeds``, and test it.

    name: of a pair model, as in results.csv; own: its test results in this run, which are the first
    of each series. A seed decides the initial weights and the order of the batches; a split seed
    which faces are trained and tested on, with the run's own seed otherwise. Models lie beside the
    run's own, as ``<folder>_seed<k>`` and ``<folder>_split<k>``, and are trained once. Writes and
    returns ``repeats/<folder>.csv``, one row a training and protocol: model, varied (own, seed or
    split), seed, protocol, n_pairs, accuracy, auc.
    """
    p, folder = data.params, FOLDERS[name]
    rows = _rows("own", p.seed, own)
    for seed in dict.fromkeys(p.seeds):
        if seed != p.seed:
            rows += _again(name, f"{folder}_seed{seed}", run, data, seed=seed)
    for seed in dict.fromkeys(p.split_seeds):
        if seed != p.seed:
            found = _again(name, f"{folder}_split{seed}", run, other_split(data, seed))
            rows += [row | {"varied": "split", "seed": seed} for row in found]
    table = pd.DataFrame(rows)
    write_csv(table, run.repeats(folder))
    return table


def _rows(varied: str, seed: int, results: list[Evaluated]) -> list[dict]:
    names = ["model", "protocol", "n_pairs", *METRICS]
    chosen = [one.row for one in results if one.row["split"] == "test"]
    return [
        {"varied": varied, "seed": seed} | {name: row[name] for name in names} for row in chosen
    ]


def _again(name: str, folder: str, run: Run, data: RunData, seed: int | None = None) -> list[dict]:
    seed = data.params.seed if seed is None else seed
    fitted = fit_variant(folder, run, data, name, seed=seed)
    resamples = data.params.resamples
    return _rows("seed", seed, evaluate_pairs(name, fitted.model, data, "test", resamples))


def other_split(data: RunData, seed: int) -> RunData:
    """The same faces, parted into training, validation and test by another seed."""
    p, other = data.params, copy.copy(data)
    other.faces = data.faces.assign(split=split_faces(data.faces, p.train, p.val, p.test, seed))
    return other


def read_repeats(run: Run) -> pd.DataFrame:
    """The rows of all models' repeated trainings; empty if there are none."""
    columns = ["varied", "seed", "model", "protocol", "n_pairs", *METRICS]
    paths = [path for path in map(run.repeats, sorted(FOLDERS.values())) if path.exists()]
    tables = [read_table(path, columns) for path in paths]
    return pd.concat(tables) if tables else pd.DataFrame(columns=columns)


def spreads(repeats: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread of repeated trainings, the run's own among them.

    repeats: rows as ``repeat`` makes them. One row a model, protocol and what was varied (seed or
    split), where something was: trainings, and of accuracy and AUC the mean, ``_sd`` (standard
    deviation between trainings, n - 1), ``_least`` and ``_most``.
    """
    rows = []
    for varied in ("seed", "split"):
        chosen = repeats[repeats.varied.isin(["own", varied])]
        for (model, protocol), some in chosen.groupby(["model", "protocol"], sort=False):
            if len(some) > 1:
                row = {"model": model, "protocol": protocol, "varied": varied}
                row["trainings"] = len(some)
                for metric in METRICS:
                    values = some[metric].to_numpy(np.float64)
                    row |= {metric: values.mean(), f"{metric}_sd": values.std(ddof=1)}
                    row |= {f"{metric}_least": values.min(), f"{metric}_most": values.max()}
                rows.append(row)
    columns = ["model", "protocol", "varied", "trainings"]
    kinds = [f"{metric}{kind}" for metric in METRICS for kind in ("", "_sd", "_least", "_most")]
    return pd.DataFrame(rows, columns=columns + kinds)


def over_seeds(table: pd.DataFrame, metric: str = "auc", protocol: str = "sample") -> pd.Series:
    """Mean and standard deviation over seeds as text, by model: ``0.871 ± 0.004 (3)``.

    table: as from ``spreads``; in brackets the number of trainings.
    """
    some = table[(table.varied == "seed") & (table.protocol == protocol)]
    texts = [
        f"{row[metric]:.3f} ± {row[f'{metric}_sd']:.3f} ({row['trainings']})"
        for row in some.to_dict("records")
    ]
    return pd.Series(texts, index=some.model.to_numpy(), dtype=str)
