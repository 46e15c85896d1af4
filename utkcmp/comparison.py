"""The trained models of a run side by side: loading them, their cost, their answers."""

import re

import numpy as np
import pandas as pd
from torch import nn

from utkcmp.datasets import RunData
from utkcmp.inference import compared_logits, contributions, embeds_once, pair_logits
from utkcmp.modelfiles import load_model, read_config, read_history
from utkcmp.models import AgeComparison, ResNetAgeRegressor
from utkcmp.pairs import AllPairs, Pairs
from utkcmp.run import Run, read_table

FOLDERS = {
    "SiameseResNet": "siamese",
    "ResNetClassifier": "concat",
    "SiameseResNetAge": "transfer",
    "SiameseResNetAge, left face twice": "transfer_blind",
    "ensemble": "ensemble",
}
AGES_COMPARED = "ages compared"


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
        backbone = read_config(configs["transfer"].parent)["options"]["backbone"]
        found[AGES_COMPARED] = f"age_regressor_{backbone}"
    return found


def load_models(run: Run) -> dict[str, nn.Module]:
    """The finished models of a run, by their name in results.csv, in evaluation mode."""
    models = {name: load_model(run.model(folder)) for name, folder in model_folders(run).items()}
    if AGES_COMPARED in models:
        regressor = models[AGES_COMPARED]
        history = read_history(run.model(model_folders(run)[AGES_COMPARED]))
        models[AGES_COMPARED] = compare_ages(regressor, history)
    return models


def compare_ages(regressor: ResNetAgeRegressor, history: pd.DataFrame) -> AgeComparison:
    """A trained regressor as a pair model, its error that of its best epoch.

    history: as in ``solver.Fitted``.
    """
    error = history.val_loss.min() ** 0.5 * float(regressor.age_std)  # root mean square, years
    return AgeComparison(regressor, error).eval()


def model_costs(run: Run, models: dict[str, nn.Module]) -> pd.DataFrame:
    """What each model costs: millions of weights, epochs trained, minutes trained, by its name."""
    rows, before, stages = {}, [], {"SiameseResNet", *larger_models(run)}
    for name, folder in model_folders(run).items():
        history = read_history(run.model(folder))
        if name in stages:  # each began where one had ended
            before.append(history)
            history = pd.concat(before)
        rows[name] = {
            "weights (millions)": sum(w.numel() for w in models[name].parameters()) / 1e6,
            "epochs": len(history),
            "training (minutes)": history.seconds.sum() / 60,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def answers_to(models: dict[str, nn.Module], data: RunData, pairs: Pairs) -> dict[str, np.ndarray]:
    """The logits of every model on the same pairs, float64 (K,)."""
    return {
        name: pair_logits(model, data.images_for(model), pairs) for name, model in models.items()
    }


def all_answers(model: nn.Module, data: RunData, split: str = "test") -> tuple[Pairs, np.ndarray]:
    """Every pair of a split at least a year apart, and a model's logits; it must embed faces once.

    Returns pairs (rows of ``data.images``) and float64 (K,).
    """
    if not embeds_once(model):
        raise ValueError("a model that sees two faces at once cannot be asked millions of pairs")
    rows = data.rows(split)
    numbered = AllPairs(data.ages.numpy()[rows])[:]
    contributed = contributions(model.eval(), data.images_for(model), rows)
    return numbered.take(rows), compared_logits(model, contributed, numbered.left, numbered.right)


def circle_answers(model: nn.Module, data: RunData, triples: np.ndarray) -> np.ndarray:
    """The answers to (a, b), (b, c), (c, a) for triples of faces: bool (T, 3), first called older.

    triples: rows of ``data.images``, (T, 3).
    """
    left, right = triples.ravel(), np.roll(triples, -1, axis=1).ravel()
    asked = Pairs(left, right, np.zeros(len(left), np.int8))
    return (pair_logits(model, data.images_for(model), asked) > 0).reshape(triples.shape)


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
