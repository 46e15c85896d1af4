"""The trained models of a run: which lies where, loading them, what they cost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utkcmp import models
from utkcmp.data.pairs import Pairs
from utkcmp.files import atomic, read_table
from utkcmp.run import CHOICE, Run

if TYPE_CHECKING:
    from torch import nn

    from utkcmp.data.datasets import RunData


PEER = "HSE-FaceRes (peer)"  # in results.csv beside the run's own models


def by_validation(results: pd.DataFrame) -> list[str]:
    """Models of results.csv that this run has trained, by their AUC on validation pairs, the mean
    of all seeds, the highest first."""
    validated = results.query("split == 'val' and protocol == 'sample' and model != @PEER")
    return validated.groupby("model").auc.mean().sort_values(ascending=False).index.tolist()


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
SPEED_PAIRS = 256  # asked to measure a model's speed
ABLATIONS = ("SiameseResNetAge, left face twice",)  # never chosen: one thing is wrong with each


def model_folders(run: Run) -> dict[str, str]:
    """The finished models of a run: by their name in results.csv, the folder below ``models/``."""
    configs = {path.parent.name: path for path in run.model(".").glob("*/config.json")}
    found = {name: folder for name, folder in FOLDERS.items() if folder in configs}
    if "transfer" in configs:  # tuning may have trained regressors of other backbones
        backbone = models.read_config(configs["transfer"].parent)["options"]["backbone"]
        found[AGES_COMPARED] = f"age_regressor_{backbone}"
    return found


def load_models(run: Run) -> dict[str, nn.Module]:
    """The finished models of a run, by their name in results.csv, in evaluation mode."""
    return {name: load_pair_model(run.model(folder)) for name, folder in model_folders(run).items()}


def compare_ages(
    regressor: models.ResNetAgeRegressor, history: pd.DataFrame
) -> models.AgeComparison:
    """A trained regressor as a pair model, its error that of its best epoch.

    history: as in ``solver.Fitted``.
    """
    error = history.val_loss.min() ** 0.5 * float(regressor.age_std)  # root mean square, years
    return models.AgeComparison(regressor, error).eval()


def model_costs(run: Run, trained: dict[str, nn.Module], data: RunData) -> pd.DataFrame:
    """What each model costs, by its name: millions of weights, epochs and minutes of training, and
    test faces per second when it answers, all measured now on this machine, one after the other.

    Epochs and minutes are of everything that a model needed: the regressor whose features it takes,
    the members of an ensemble.
    """
    folders, rows = model_folders(run), {}
    histories = {name: models.read_history(run.model(folder)) for name, folder in folders.items()}
    rows_of = data.rows("test")[: 2 * (SPEED_PAIRS // 2)]
    left, right = np.array_split(rows_of[: len(rows_of) // 2 * 2], 2)
    asked = Pairs(left, right, np.zeros(len(left), np.int8))
    for name in folders:
        needed = [histories[one] for one in needed_for(name) if one in histories]
        images = data.images_for(trained[name])
        models.pair_logits(trained[name], images, asked[:8])  # the first call is slower
        started = time.perf_counter()
        models.pair_logits(trained[name], images, asked)
        rows[name] = {
            "weights (millions)": sum(w.numel() for w in trained[name].parameters()) / 1e6,
            "epochs": sum(map(len, needed)),
            "training (minutes)": sum(one.seconds.sum() for one in needed) / 60,
            "faces per second": 2 * len(asked) / (time.perf_counter() - started),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def needed_for(name: str) -> list[str]:
    """The models whose trainings a model needed, its own among them, each once."""
    if name == ENSEMBLE:
        return list(dict.fromkeys(m for one in MEMBERS for m in needed_for(one)))
    return [AGES_COMPARED, name] if name.startswith("SiameseResNetAge") else [name]


def head_trainings(run: Run) -> pd.DataFrame:
    """Trainings of notebook 07 that differ in their head and seed alone, as far as there are any.

    Columns model, hidden_layers (as text), seed, auc (validation), one row per training.
    """
    found = sorted(run.tuning("").parent.glob("*_heads.csv"))
    columns = ["model", "hidden_layers", "seed", "auc"]
    tables = [read_table(path, columns)[columns] for path in found]
    return pd.concat(tables) if tables else pd.DataFrame(columns=columns)


def choose_model(run: Run) -> str:
    """The folder below ``models/`` of the model that is to answer, recorded in ``compare.json``.

    It is the one with the highest validation AUC of those that look at each face by itself, since
    only these order an album without asking about every two faces anew.
    Raises FileNotFoundError if the run has no such model.
    """
    folders, ranked = model_folders(run), by_validation(run.read_results())
    able = [folders[name] for name in ranked if name in folders and name not in ABLATIONS]
    for name in able:
        if models.embeds_once(load_pair_model(run.model(name))):
            with atomic(run.folder / CHOICE) as temporary:
                temporary.write_text(json.dumps({"model": name}) + "\n")
            return name
    raise FileNotFoundError(
        f"{run.shown(run.model('.'))} holds no evaluated model: run notebook 04 or 06 first"
    )


def load_pair_model(folder: str | Path) -> nn.Module:
    """A trained model as a pair model, in evaluation mode; ``image_size`` is its pixels per side.

    An age regressor compares its ages. Raises ValueError as ``load_model`` does.
    """
    folder = Path(folder)
    model = models.load_model(folder)
    if isinstance(model, models.ResNetAgeRegressor):
        model = compare_ages(model, models.read_history(folder))
    return model
