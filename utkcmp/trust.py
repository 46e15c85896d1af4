"""How far an answer can be trusted: calibration, abstention, contradictions."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit

from utkcmp.inference import pair_metrics


def fit_temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """The number to divide logits by, so that their probabilities fit the labels best.

    logits: (K,) on validation pairs; label: (K,). Minimises the cross entropy (Guo et al. 2017,
    "On Calibration of Modern Neural Networks", ICML).

    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(0, 2, 20_000)
    >>> label = rng.random(20_000) < expit(logits)
    >>> round(fit_temperature(3 * logits, label), 1)
    3.0
    """
    found = minimize_scalar(
        lambda power: pair_metrics(logits / np.exp(power), label)["loss"],
        bounds=(-5, 5),
        method="bounded",
    )
    return float(np.exp(found.x))


def reliability(logits: np.ndarray, label: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """How often answers of a given confidence are right.

    The confidence of an answer is the probability of the side it names, 0.5 to 1; ``bins`` parts of
    that range. One row a part that has answers: confidence (mean), accuracy, pairs.
    """
    confidence = expit(np.abs(logits))
    correct = (logits > 0) == (label == 1)
    part = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    table = pd.DataFrame({"part": part, "confidence": confidence, "accuracy": correct})
    grouped = table.groupby("part")
    return grouped.mean().assign(pairs=grouped.size()).reset_index(drop=True)


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy, weighted by pairs.

    table: as from ``reliability``.
    """
    gaps = (table.confidence - table.accuracy).abs()
    return float(np.average(gaps, weights=table.pairs))


def coverage_curve(logits: np.ndarray, label: np.ndarray, points: int = 50) -> pd.DataFrame:
    """Accuracy where the model answers only its most confident pairs.

    Returns coverage (share answered, up to 1), accuracy, and confidence (the least one answered).
    """
    order = np.argsort(-np.abs(logits), kind="stable")
    correct = ((logits > 0) == (label == 1))[order]
    counts = np.unique(np.linspace(len(order) / points, len(order), points).astype(int).clip(1))
    return pd.DataFrame(
        {
            "coverage": counts / len(order),
            "accuracy": np.cumsum(correct)[counts - 1] / counts,
            "confidence": expit(np.abs(logits[order][counts - 1])),
        }
    )


def cyclic_share(older: np.ndarray) -> float:
    """The share of triples of faces that are answered in a circle: a over b, b over c, c over a.

    older: bool (T, 3), for T triples the answers to (a, b), (b, c), (c, a), True where the first is
    called older. A coin flip gives 0.25, an order of all faces 0.

    >>> cyclic_share(np.array([[True, True, True], [True, True, False]]))
    0.5
    """
    return float((older.all(1) | ~older.any(1)).mean())


def random_triples(rows: np.ndarray, count: int, seed: int = 42) -> np.ndarray:
    """``count`` triples of three different faces each, int64 (count, 3), drawn from ``rows``."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(rows, 3, replace=False) for _ in range(count)])
