"""The trained models of a run: which lies where, loading them, what they cost."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from utkcmp import models
from utkcmp.files import atomic, read_table
from utkcmp.run import CHOICE, Run

if TYPE_CHECKING:
    from torch import nn


def by_validation(results: pd.DataFrame) -> list[str]:
    """Models of results.csv by their AUC on validation pairs, the highest first."""
    validated = results.query("split == 'val' and protocol == 'sample'")
    return validated.sort_values("auc", ascending=False).model.tolist()


FOLDERS = {
    "SiameseResNet": "siamese",
    "ResNetClassifier": "concat",
    "SiameseResNetAge": "transfer",
    "SiameseResNetAge, left face twice": "transfer_blind",
    "ensemble": "ensemble",
}
AGES_COMPARED = "ages compared"
ABLATIONS = ("SiameseResNetAge, left face twice",)  # never chosen: one thing is wrong with each


def larger_name(size: int) -> tuple[str, str]:
    """Of the Siamese model that notebook 04 trains on with faces of ``size`` pixels: its name in
    results.csv and its folder below ``models/``."""
    return f"SiameseResNet, {size} px", f"siamese_{size}px"


def larger_models(run: Run) -> dict[str, str]:
    """The models of larger faces that a run has, as ``model_folders``, the smallest faces first."""
    found = (re.fullmatch(r"siamese_(\d+)px", path.name) for path in run.model(".").glob("*"))
    return dict(larger_name(size) for size in sorted(int(match[1]) for match in found if match))


def model_folders(run: Run) -> dict[str, str]:
    """The finished models of a run: by their name in results.csv, the folder below ``models/``."""
    configs = {path.parent.name: path for path in run.model(".").glob("*/config.json")}
    known = FOLDERS | larger_models(run)
    found = {name: folder for name, folder in known.items() if folder in configs}
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


def model_costs(run: Run, trained: dict[str, nn.Module]) -> pd.DataFrame:
    """What each model costs: millions of weights, epochs trained, minutes trained, by its name."""
    rows, before, stages = {}, [], {"SiameseResNet", *larger_models(run)}
    for name, folder in model_folders(run).items():
        history = models.read_history(run.model(folder))
        if name in stages:  # each began where one had ended
            before.append(history)
            history = pd.concat(before)
        rows[name] = {
            "weights (millions)": sum(w.numel() for w in trained[name].parameters()) / 1e6,
            "epochs": len(history),
            "training (minutes)": history.seconds.sum() / 60,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def head_trainings(run: Run) -> pd.DataFrame:
    """Trainings of notebook 07 that differ in their head and seed alone, as far as there are any.

    Columns model, hidden_layers (as text), seed, auc (validation), one row a training.
    """
    found = sorted(run.tuning("").parent.glob("*_heads.csv"))
    columns = ["model", "hidden_layers", "seed", "auc"]
    tables = [read_table(path, columns) for path in found]
    return pd.concat([table[columns] for table in tables] or [pd.DataFrame(columns=columns)])


def trials(run: Run) -> pd.DataFrame:
    """All trials of notebook 07's searches, of all models; empty columns where there are none."""
    found = [run.tuning(model) for model in FOLDERS if run.tuning(model).exists()]
    tables = [read_table(path, ["hidden_layers", "auc"]) for path in found]
    return pd.concat(tables or [pd.DataFrame(columns=["hidden_layers", "auc"])], ignore_index=True)


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
