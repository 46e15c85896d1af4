"""The accuracy that label noise permits, estimated from pictures with several labels."""

import numpy as np
import pandas as pd

SPLIT_ERROR = 2**0.5  # the difference of two labels contains both errors


def label_differences(faces: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The distribution of the differences between two labels of one picture.

    faces: valid rows with columns group and age (years). Uses every ordered pair of a picture's
    files, so the distribution is symmetric around 0; each picture has the same weight. Returns (D,)
    distinct years and their (D,) weights, which sum to 1; both empty without duplicates.
    """
    files = faces[["group", "age"]].reset_index(drop=True).reset_index()
    both = files.merge(files, on="group").query("index_x != index_y")
    share = 1 / both.groupby("group").age_x.transform("size")
    weights = share.groupby(both.age_x - both.age_y).sum()
    return weights.index.to_numpy(int), weights.to_numpy() / max(weights.sum(), 1)


def chance_of_order(gaps: np.ndarray, years: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The probability that a pair keeps its order if both labels change at random.

    gaps: (K,) years, positive; years, weights: (D,), the distribution of a change, symmetric around
    0. The changes are independent of each other and of the ages; ties count half. Returns (K,).

    >>> chance_of_order(np.array([1, 2, 3]), np.array([-1, 1]), np.array([0.5, 0.5]))
    array([0.75 , 0.875, 1.   ])
    """
    change = (years[:, None] - years[None, :]).ravel()
    order = np.argsort(change)
    total = np.concatenate([[0.0], np.cumsum(np.outer(weights, weights).ravel()[order])])
    change = change[order]
    below, at_most = (np.searchsorted(change, gaps, side) for side in ("left", "right"))
    return (total[below] + total[at_most]) / 2


def noise_ceiling(gaps: np.ndarray, faces: pd.DataFrame) -> pd.DataFrame:
    """The accuracy, against noisy labels, of a judge who knows the true ages, by age gap.

    gaps: (K,) years, positive integers. Assumes that pictures with duplicates are labelled as well
    as all others; that label errors are independent, identically distributed and independent of the
    age, so that one label's error is the difference of two over the root of two; and that all true
    ages are equally likely. Returns, by gap, ``knows`` (such a judge) and ``relabelled`` (a second
    set of labels with errors like the first); NaN without duplicates.
    """
    distinct = np.unique(gaps)
    years, weights = label_differences(faces)
    if not len(years):
        return pd.DataFrame({"knows": np.nan, "relabelled": np.nan}, index=distinct)
    knows = chance_of_order(distinct, years / SPLIT_ERROR, weights)
    relabelled = chance_of_order(distinct, years, weights)
    return pd.DataFrame({"knows": knows, "relabelled": relabelled}, index=distinct)
