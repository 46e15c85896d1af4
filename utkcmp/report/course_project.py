"""The course project's published figures: reported, not measured here."""

from pathlib import Path

import pandas as pd

REPORTED = Path(__file__).parent / "reported"
RUNS = {  # by model, its run, and the pairs of a step
    "SiameseResNet": ("SiameseResNetClassifier_ResNet18", 32),
    "ResNetClassifier": ("ResNetClassifier_ResNet18_no_hidden", 32),
    "ResNetClassifier, hidden layers": ("ResNetClassifier_ResNet18_hidden", 64),
    "SiameseResNetAge": ("SiameseResNetAgeClassifier", 64),
    "age regressor": ("ResNet18AgeClassifier", None),
    "age regressor, resnet50": ("ResNet50AgeClassifier", None),
}
MEASURED = ["accuracy", "accuracy_low", "accuracy_high", "auc", "auc_low", "auc_high"]
MEASURED += ["swap_disagreement"]
EPOCH = 100_000  # pairs of its training list


def reported_results() -> pd.DataFrame:
    """What the course project reported of its models; not measured here."""
    return pd.read_csv(REPORTED / "results.csv")


def reported_test() -> pd.DataFrame:
    """Its figures on test faces, one row per model, the first that it gave of each."""
    return reported_results().query("split == 'test'").drop_duplicates("model")


def beside_reported(measured: pd.DataFrame, every_seed: pd.DataFrame) -> pd.DataFrame:
    """Measured figures by model, a coin flip first, beside the reported ones and, where a model was
    trained with several seeds, mean and standard deviation of their AUCs.

    measured: rows of results.csv, one per model; every_seed: the same rows of all seeds.
    """
    table = measured.set_index("model")[MEASURED]
    coin = pd.DataFrame({"accuracy": 0.5, "auc": 0.5}, index=pd.Index(["coin flip"], name="model"))
    table, reported = pd.concat([coin, table]), reported_test().set_index("model")
    table["reported accuracy"], table["reported AUC"] = reported.accuracy, reported.auc
    seeds = every_seed.groupby("model").auc.agg(["mean", "std", "count"]).query("count > 1")
    table["mean AUC of seeds"], table["deviation"] = seeds["mean"], seeds["std"]
    return table.dropna(axis=1, how="all")


def reported_tuning() -> pd.DataFrame:
    """The trials that the course project reported; not measured here."""
    return pd.read_csv(REPORTED / "tuning.csv")


def reported_curve(model: str) -> pd.DataFrame:
    """The validation figures of one of the course project's trainings (RUNS), one row per epoch.

    Columns epoch, faces (seen so far; of pair models only), val_loss and, of pair models,
    val_accuracy and val_auc. The loss of an age regressor is its mean squared error, years².
    """
    curves, (run, pairs) = pd.read_csv(REPORTED / "curves.csv"), RUNS[model]
    some = curves[(curves.run == run) & curves.tag.str.endswith("/eval")]
    table = some.pivot(index="step", columns="tag", values="value")
    table.columns = "val_" + table.columns.str.removesuffix("/eval").str.lower()
    table.insert(0, "epoch", table.index + 1)
    if pairs:
        table.insert(1, "faces", table.epoch * (EPOCH // pairs * pairs * 2))
    return table.reset_index(drop=True)
