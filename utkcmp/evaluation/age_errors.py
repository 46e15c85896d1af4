"""What an error in years is worth in pairs: published ages beside answers about pairs."""

import numpy as np
from scipy.stats import kendalltau

ERRORS = ("normal", "laplace")


def accuracy_from_error(
    ages: np.ndarray, error: float, shape: str = "normal", draws: int = 20, seed: int = 42
) -> float:
    """How often two predicted ages stand in the order of the true ones, over all pairs that differ.

    ages: (N,) years; error: the mean absolute error of a prediction, years; shape: of its errors.
    Assumes that errors are unbiased, alike at every age, and independent of each other. Simulates
    ``draws`` sets of predictions, and returns the mean accuracy; NaN if no two ages differ.

    >>> accuracy_from_error(np.array([20, 30, 40]), error=0.01)
    1.0
    """
    rng, ages = np.random.default_rng(seed), np.asarray(ages, float)
    spread = error * np.sqrt(np.pi / 2) if shape == "normal" else error  # the scale of each shape
    alike = np.unique(ages, return_counts=True)[1]
    pairs, same = (count * (count - 1) / 2 for count in (len(ages), alike))
    asked = pairs - same.sum()
    if not asked:
        return float("nan")
    # Kendall's tau-b is (right − wrong) / √(pairs · asked), since predictions never tie.
    tau = [
        kendalltau(ages, ages + getattr(rng, shape)(0, spread, len(ages))).statistic
        for _ in range(draws)
    ]
    return float((1 + np.mean(tau) * np.sqrt(pairs / asked)) / 2)
