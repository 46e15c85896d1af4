"""The course project's published figures: reported, not measured here."""

from pathlib import Path

import pandas as pd

REPORTED = Path(__file__).parent / "reported"


def reported_results() -> pd.DataFrame:
    """What the course project reported of its models; not measured here."""
    return pd.read_csv(REPORTED / "results.csv")


def reported_tuning() -> pd.DataFrame:
    """The trials that the course project reported; not measured here."""
    return pd.read_csv(REPORTED / "tuning.csv")
