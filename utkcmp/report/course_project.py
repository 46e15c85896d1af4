"""The results that the course project reported; nothing here is measured by this project."""

from pathlib import Path

import pandas as pd

REPORTED = Path(__file__).parent / "reported"
MEASURED = ["accuracy", "accuracy_low", "accuracy_high", "auc", "auc_low", "auc_high"]


def reported_results() -> pd.DataFrame:
    """The course project's results for its models."""
    return pd.read_csv(REPORTED / "results.csv")


def reported_test() -> pd.DataFrame:
    """Its results on test faces, one row per model: the first one reported."""
    return reported_results().query("split == 'test'").drop_duplicates("model")


def beside_reported(measured: pd.DataFrame, every_seed: pd.DataFrame) -> pd.DataFrame:
    """Measured results by model, after a coin flip, beside the reported ones, with the mean and
    standard deviation of the AUC where there are several seeds.

    measured: rows of results.csv, one per model; every_seed: the rows of all seeds and splits.
    """
    table = measured.set_index("model")[MEASURED]
    coin = pd.DataFrame({"accuracy": 0.5, "auc": 0.5}, index=pd.Index(["coin flip"], name="model"))
    table, reported = pd.concat([coin, table]), reported_test().set_index("model")
    table["reported accuracy"], table["reported AUC"] = reported.accuracy, reported.auc
    every_seed = every_seed.query("split == 'test' and protocol == 'sample'")
    seeds = every_seed.groupby("model").auc.agg(["mean", "std", "count"]).query("count > 1")
    table["mean AUC over seeds"], table["SD over seeds"] = seeds["mean"], seeds["std"]
    return table.dropna(axis=1, how="all")


def beside_recipes(measured: pd.DataFrame) -> pd.DataFrame:
    """The AUCs of its configurations here beside those it reported on its own validation pairs, at
    224 pixels. measured: from ``training.course_recipes``."""
    theirs = reported_results().query("split == 'val'")
    theirs = theirs.set_index(theirs.model + ", " + theirs.variant).auc
    shown = measured.set_index("arm")[["seeds", "faces", "auc", "auc_sd"]]
    return shown.assign(reported=theirs).rename_axis("configuration")


def reported_tuning() -> pd.DataFrame:
    """The course project's tuning trials."""
    return pd.read_csv(REPORTED / "tuning.csv")


def reported_curve(model: str) -> pd.DataFrame:
    """The validation curve of one of the course project's trainings, one row per epoch.

    Columns epoch, val_loss and, for pair models, faces (seen so far), val_accuracy and val_auc. The
    loss of an age regressor is the mean squared error, years².
    """
    curves = pd.read_csv(REPORTED / "curves.csv").query("model == @model")
    return curves.drop(columns=["model", "run"]).dropna(axis=1).reset_index(drop=True)
