"""Intervals that know that pairs share faces: whole faces are drawn anew, not pairs.

A pair counts as often as the product of its two faces' counts (the pigeonhole bootstrap of Owen
2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2)). Pairs are put into bins by
their logit; the weight of a bin in all resamples at once is a product of a sparse matrix of pairs
and the matrix of counts, so a thousand resamples of millions of pairs take seconds.
"""

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from utkcmp.inference import pair_metrics
from utkcmp.pairs import Pairs

BINS = 400  # of logits; they move the area under the curve by a few 1e-5 at most
_COLUMNS = 500  # resamples held at once


def bootstrap_faces(
    logits: np.ndarray, pairs: Pairs, resamples: int = 1000, seed: int = 42
) -> pd.DataFrame:
    """Accuracy and AUC on resampled faces, one row a resample.

    logits: (K,); pairs: K pairs of image rows. Two models asked the same pairs with the same seed
    meet the same resamples, so the difference of their rows is a paired one.
    """
    faces, places = np.unique(np.concatenate([pairs.left, pairs.right]), return_inverse=True)
    left, right = np.split(places, 2)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(faces), np.full(len(faces), 1 / len(faces)), size=resamples)
    counts = counts.T.astype(np.float32)  # (N, R)
    bins = _bins(logits)
    label = pairs.label.astype(bool)
    positive, negative = np.empty((2, bins.max() + 1, resamples))
    order = np.argsort(bins, kind="stable")
    ends = np.searchsorted(bins[order], np.arange(bins.max() + 2))
    for number, (start, end) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
        chosen = order[start:end]
        for side, into in ((True, positive), (False, negative)):
            some = chosen[label[chosen] == side]
            into[number] = _weights(left[some], right[some], counts)
    older = np.zeros(bins.max() + 1, dtype=bool)
    older[bins[logits > 0]] = True  # no bin holds logits of both signs
    total = positive.sum(0) + negative.sum(0)
    right_answers = positive[older].sum(0) + negative[~older].sum(0)
    below = np.cumsum(negative, axis=0) - negative / 2  # ties count half
    with np.errstate(invalid="ignore"):  # a resample of a small part may hold no pair
        auc = (positive * below).sum(0) / (positive.sum(0) * negative.sum(0))
        accuracy = right_answers / total
    return pd.DataFrame({"accuracy": accuracy, "auc": auc})


def _bins(logits: np.ndarray) -> np.ndarray:
    """A bin for each logit, in their order: one for each distinct value if these are few, else
    about as many logits in each; none holds both signs. Returns int (K,), from 0."""
    distinct = np.unique(logits)
    if len(distinct) > BINS:
        cuts = np.quantile(logits, np.linspace(0, 1, BINS + 1)[1:-1])
        distinct = np.unique(np.append(cuts, 0.0))
        return np.unique(np.searchsorted(distinct, logits, "left"), return_inverse=True)[1]
    return np.searchsorted(distinct, logits)


def _weights(left: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The sum of the pairs' weights in each resample, (R,)."""
    faces = len(counts)
    beside = csr_array((np.ones(len(left), np.float32), (left, right)), shape=(faces, faces))
    rows = np.unique(left)
    return np.concatenate(
        [
            np.einsum("nr,nr->r", beside[rows] @ some, some[rows], dtype=np.float64)
            for some in np.split(counts, range(_COLUMNS, counts.shape[1], _COLUMNS), axis=1)
        ]
    )


def intervals(resampled: pd.DataFrame, level: float = 0.95) -> dict[str, float]:
    """Percentile intervals of ``bootstrap_faces``: accuracy_low, accuracy_high, auc_low, ..."""
    tail = (1 - level) / 2
    bounds = resampled.quantile([tail, 1 - tail])
    return {
        f"{metric}_{end}": float(bounds[metric].iloc[i])
        for metric in resampled.columns
        for i, end in enumerate(("low", "high"))
    }


def paired_differences(
    answers: dict[str, np.ndarray], pairs: Pairs, resamples: int = 1000, seed: int = 42
) -> pd.DataFrame:
    """How far apart models are on the same pairs, with intervals of the differences.

    answers: by model, logits (K,). Returns one row for each two models: better, other (by AUC),
    and of accuracy and AUC the difference, ``_low`` and ``_high`` (95 %), and ``real``: whether the
    AUC's interval leaves out zero.
    """
    measured = {name: pair_metrics(logits, pairs.label) for name, logits in answers.items()}
    drawn = {
        name: bootstrap_faces(logits, pairs, resamples, seed) for name, logits in answers.items()
    }
    ranked = sorted(answers, key=lambda name: -measured[name]["auc"])
    rows = []
    for i, better in enumerate(ranked):
        for other in ranked[i + 1 :]:
            row = {"better": better, "other": other}
            row |= {m: measured[better][m] - measured[other][m] for m in ("accuracy", "auc")}
            row |= intervals(drawn[better] - drawn[other])
            rows.append(row | {"real": row["auc_low"] > 0})
    return pd.DataFrame(rows)
