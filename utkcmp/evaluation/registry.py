"""The models that a run compares: their folders, loading them, the ensemble, the peer, costs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utkcmp import models
from utkcmp.data.pairs import Pairs
from utkcmp.files import read_table, write_json
from utkcmp.params import FACERES
from utkcmp.run import CHOICE, Run, faceres_weights

if TYPE_CHECKING:
    from torch import nn

    from utkcmp.data.datasets import RunData

PEER = "HSE-FaceRes (peer)"  # in results.csv beside the run's own models
FOLDERS = {
    "SiameseResNet": "siamese",
    "ResNetClassifier": "concat",
    "SiameseResNetAge": "transfer",
    "SiameseResNetAge, left face twice": "transfer_blind",
    "HSE-FaceRes, frozen": "transfer_faceres",
    "RankingAgeRegressor": "ranking_regressor",
    "ensemble": "ensemble",
}
ENSEMBLE = "ensemble"
MEMBERS = ("SiameseResNet", "SiameseResNetAge")  # of the ensemble
AGES_COMPARED = "ages compared"
SPEED_FACES = 256  # to measure a model's speed
PEER_SIZE = 160  # pixels per side of the faces that the peer sees
PEER_FACES = 500  # validation faces, at most, used to estimate the peer's error
ABLATIONS = ("SiameseResNetAge, left face twice",)  # deliberately faulty, so never chosen
ABSENT = (
    "The published estimator is not compared, because its weights are not on this machine: "
    "`make weights` fetches them, and the next `make report` tests it on the same faces."
)


def by_validation(results: pd.DataFrame) -> list[str]:
    """The run's own models in results.csv, by mean validation AUC over seeds, the highest first,
    without the ablations."""
    validated = results.query("split == 'val' and protocol == 'sample'")
    validated = validated[~validated.model.isin([PEER, *ABLATIONS])]
    return validated.groupby("model").auc.mean().sort_values(ascending=False).index.tolist()


def model_folders(run: Run) -> dict[str, str]:
    """The finished models of a run: by their name in results.csv, the folder below ``models/``."""
    folders = {path.parent.name: path.parent for path in run.model(".").glob("*/config.json")}
    found = {name: folder for name, folder in FOLDERS.items() if folder in folders}
    if "transfer" in folders:  # tuning may have trained regressors with other backbones
        backbone = models.read_config(folders["transfer"])["options"]["backbone"]
        found[AGES_COMPARED] = f"age_regressor_{backbone}"
    return found


def load_models(run: Run) -> dict[str, nn.Module]:
    """The finished models of a run, by their name in results.csv, in evaluation mode."""
    return {name: load_pair_model(run.model(folder)) for name, folder in model_folders(run).items()}


def compare_ages(regressor: nn.Module, history: pd.DataFrame) -> models.AgeComparison:
    """A trained regressor as a pair model, with the lowest validation error in ``history``."""
    error = history.val_loss.min() ** 0.5 * float(regressor.age_std)  # RMSE, years
    return models.AgeComparison(regressor, error).eval()


def make_ensemble(run: Run) -> nn.Module | None:
    """Combine the ``MEMBERS``, with their histories, in ``models/ensemble``, without training; None
    if one of them is missing or has not been evaluated."""
    known = model_folders(run)
    if not set(MEMBERS) <= set(known) & set(run.read_results().model):
        return None
    folders = {name: run.model(known[name]) for name in MEMBERS}
    members = [models.load_model(folder) for folder in folders.values()]
    ensemble = models.build_model("PairEnsemble", members=[one.config for one in members])
    for own, trained in zip(ensemble.members, members, strict=True):
        own.load_state_dict(trained.state_dict())
    settings = {name: models.read_config(folder)["settings"] for name, folder in folders.items()}
    history = pd.concat([models.read_history(folder) for folder in folders.values()])
    place = run.model(FOLDERS[ENSEMBLE])
    models.save_model(ensemble.eval(), place, settings=settings, history=history)
    return ensemble


def load_peer(data: RunData) -> models.AgeComparison | None:
    """HSE-FaceRes with its own age head, not trained here, as a pair model.

    It predicts the expected age from a face of 160 pixels and its mirror image; see
    ``models/weights.py`` for its training data. The pair model compares the ages, its confidence
    following from its error on validation faces. None if its weights are not on this machine.
    """
    if not faceres_weights().exists():
        return None
    options = {"backbone": FACERES, "weights": FACERES, "age_loss": "distribution"}
    options |= {"mirror": True, "image_size": PEER_SIZE}
    regressor = models.build_model("ResNetAgeRegressor", **options).eval()
    rows = data.rows("val")
    rows = rows[:: -(-len(rows) // PEER_FACES)]
    stated = models.predict_ages(regressor, data.images_for(regressor), rows)
    wrong = stated - data.ages.numpy()[rows]
    return models.AgeComparison(regressor, float(np.sqrt((wrong**2).mean()))).eval()


def model_costs(run: Run, trained: dict[str, nn.Module], data: RunData) -> pd.DataFrame:
    """The cost of each model, by name: millions of weights, epochs and minutes of training, and
    test faces per second, measured now on this machine.

    Epochs and minutes include the training of what a model is built on (its frozen regressor, an
    ensemble's members), minutes also the pass over all faces for frozen features, at that speed.
    """
    folders, rows, faces, minutes = model_folders(run), {}, data.rows("test"), {}
    histories = {name: models.read_history(run.model(folder)) for name, folder in folders.items()}
    count = min(SPEED_FACES, len(faces)) // 2
    asked = Pairs(faces[:count], faces[count : 2 * count], np.zeros(count, np.int8))
    for name in folders:
        model, images = trained[name], data.images_for(trained[name])
        models.pair_logits(model, images, asked[:8])  # the first call is slower
        started = time.perf_counter()
        models.pair_logits(model, images, asked)
        speed = 2 * len(asked) / (time.perf_counter() - started)
        frozen = isinstance(model, models.SiameseResNetAge)  # its features come first
        minutes[name] = histories[name].seconds.sum() / 60 + frozen * len(data.ages) / speed / 60
        size = sum(weight.numel() for weight in model.parameters()) / 1e6
        rows[name] = {"weights (millions)": size, "faces per second": speed}
    for name, row in rows.items():
        needed = [one for one in needed_for(name) if one in rows]
        row["epochs"] = sum(len(histories[one]) for one in needed)
        row["training (minutes)"] = sum(minutes[one] for one in needed)
    return pd.DataFrame.from_dict(rows, orient="index")


def needed_for(name: str) -> list[str]:
    """The models that had to be trained for a model, itself included."""
    if name == ENSEMBLE:
        return list(dict.fromkeys(m for one in MEMBERS for m in needed_for(one)))
    return [AGES_COMPARED, name] if name.startswith("SiameseResNetAge") else [name]


def head_trainings(run: Run) -> pd.DataFrame:
    """The head comparisons of notebook 07, one row per training: model, hidden_layers (as text),
    seed, auc (validation); may be empty."""
    found = sorted(run.tuning("").parent.glob("*_heads.csv"))
    columns = ["model", "hidden_layers", "seed", "auc"]
    tables = [read_table(path, columns)[columns] for path in found]
    return pd.concat(tables) if tables else pd.DataFrame(columns=columns)


def choose_model(run: Run) -> str:
    """Choose the model that compares photos: its folder, also written to ``compare.json``.

    It is the one with the highest validation AUC of those that embed each face separately, since
    only these can sort an album without evaluating every pair. Raises FileNotFoundError if none.
    """
    folders, ranked = model_folders(run), by_validation(run.read_results())
    for folder in [folders[name] for name in ranked if name in folders]:
        if models.embeds_once(load_pair_model(run.model(folder))):
            write_json({"model": folder}, run.folder / CHOICE)
            return folder
    raise FileNotFoundError(
        f"{run.shown(run.model('.'))} holds no evaluated model: run notebook 04 or 06 first"
    )


def load_pair_model(folder: str | Path) -> nn.Module:
    """A trained model as a pair model, in evaluation mode; an age regressor compares its ages.

    Raises ValueError as ``load_model`` does.
    """
    model = models.load_model(Path(folder))
    if isinstance(model, models.ResNetAgeRegressor):
        return compare_ages(model, models.read_history(Path(folder)))
    return model
