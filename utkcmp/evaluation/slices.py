"""Performance on subgroups of the pairs, with intervals."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from utkcmp.data.index import ETHNICITIES, GENDERS
from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.bootstrap import intervals
from utkcmp.evaluation.metrics import pair_metrics
from utkcmp.plots.style import GAP_LABELS

GAPS = ([0, 1, 2, 5, 10, 20, np.inf], GAP_LABELS)
AGES = (
    [-1, 4, 12, 19, 29, 39, 49, 59, 69, np.inf],
    "0–4 5–12 13–19 20s 30s 40s 50s 60s 70+".split(),
)
# A subgroup with fewer is small: faces, pairs, effective faces behind its errors.
FEW_FACES, FEW_PAIRS, FEW_TO_BLAME = 30, 200, 10


def gap_parts(pairs: Pairs, ages: np.ndarray) -> pd.Categorical:
    """The bin of GAPS that each pair's age gap falls in, (K,). ages: (N,) years."""
    edges, labels = GAPS
    return pd.cut(np.abs(ages[pairs.left] - ages[pairs.right]), edges, labels=labels)


def pair_slices(pairs: Pairs, faces: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """Subgroups of the pairs, as (slice, part, mask (K,) bool).

    pairs: rows of faces; faces: columns age (years), gender, ethnicity (codes, NaN if unknown; a
    pair with an unknown value is in no part of that slice).
    """
    age, (edges, labels) = faces.age.to_numpy(int), AGES
    younger = pd.cut(np.minimum(age[pairs.left], age[pairs.right]), edges, labels=labels)
    parts = {"age gap (years)": gap_parts(pairs, age), "age of the younger": younger}
    for name, part in parts.items():
        for label in part.categories:
            yield name, label, np.asarray(part == label)
    for name, names in (("gender", GENDERS), ("ethnicity", ETHNICITIES)):
        codes = faces[name].to_numpy(float)
        left, right = codes[pairs.left], codes[pairs.right]
        for code, label in enumerate(names):
            yield name, f"both {label}", (left == code) & (right == code)
        yield name, "the same", left == right
        yield name, "different", np.abs(left - right) > 0  # false where one is unknown


def slice_table(
    logits: np.ndarray, pairs: Pairs, faces: pd.DataFrame, resamples: int = 200
) -> pd.DataFrame:
    """Accuracy and AUC of each non-empty part, with 95% intervals (bootstrap over faces).

    logits: (K,); pairs: rows of faces. One row per part, the first for all pairs: slice, part,
    faces, pairs, accuracy, auc, their ``_low`` and ``_high``; expected, the accuracy of all pairs
    at this part's age gaps, so that a part is not blamed for narrow gaps; small, where fewer than
    FEW_FACES faces, FEW_PAIRS pairs or FEW_TO_BLAME faces to blame make the interval unreliable.
    """
    age = faces.age.to_numpy(int)
    gaps = np.abs(age[pairs.left] - age[pairs.right])
    correct = (logits > 0) == (pairs.label == 1)
    by_gap = np.bincount(gaps, correct) / np.maximum(np.bincount(gaps), 1)
    whole, rows = ("all pairs", "", np.ones(len(pairs), dtype=bool)), []
    for name, part, chosen in (whole, *pair_slices(pairs, faces)):
        if not chosen.any():
            continue
        some, answers = pairs[chosen], logits[chosen]
        used = len(some.by_face()[0])
        row = {"slice": name, "part": part, "faces": used, "pairs": len(some)}
        row |= {k: v for k, v in pair_metrics(answers, some.label).items() if k != "loss"}
        bounds = intervals(answers, some, resamples)
        to_blame = bounds.pop("faces")
        row |= bounds | {"expected": by_gap[gaps[chosen]].mean()}
        row["small"] = used < FEW_FACES or len(some) < FEW_PAIRS or to_blame < FEW_TO_BLAME
        rows.append(row)
    return pd.DataFrame(rows)


def age_grid(
    logits: np.ndarray, pairs: Pairs, ages: np.ndarray, width: int = 10
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracy and number of pairs by the ages of the older (rows) and the younger face (columns).

    ages: (N,) years; width: of a cell, years. Both frames are labelled by the first age of a cell;
    accuracy is NaN where there is no pair.
    """
    cell = (np.minimum(np.asarray(ages), 99) // width * width).astype(int)
    both = np.stack([cell[pairs.left], cell[pairs.right]])
    correct = (logits > 0) == (pairs.label == 1)
    table = pd.DataFrame({"older": both.max(0), "younger": both.min(0), "correct": correct})
    grouped = table.groupby(["older", "younger"]).correct
    return grouped.mean().unstack(), grouped.size().unstack().fillna(0).astype(int)
