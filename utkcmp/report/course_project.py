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
EPOCH = 100_000  # pairs of its training list


def reported_results() -> pd.DataFrame:
    """What the course project reported of its models; not measured here."""
    return pd.read_csv(REPORTED / "results.csv")


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
