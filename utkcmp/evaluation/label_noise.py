"""The accuracy that label noise permits, estimated from pictures with several labels."""

import numpy as np
import pandas as pd


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


def chance_of_order(gaps: np.ndarray, changes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The probability that a pair keeps its order if its age gap changes at random.

    gaps: (K,) years, positive; changes, weights: (D,), years and their probabilities, independent
    of the gap. Ties count half. Returns (K,).

    >>> chance_of_order(np.array([1, 2, 3]), np.array([-2, 0, 2]), np.array([0.25, 0.5, 0.25]))
    array([0.75 , 0.875, 1.   ])
    """
    below, equal = (kept @ weights for kept in (changes < gaps[:, None], changes == gaps[:, None]))
    return below + equal / 2


def noise_ceiling(gaps: np.ndarray, faces: pd.DataFrame) -> pd.DataFrame:
    """The accuracy, against noisy labels, of a judge who knows the true ages, by age gap.

    gaps: (K,) years, positive integers. Assumes that pictures with duplicates are labelled as well
    as all others; that label errors are independent, identically distributed and independent of the
    age, so that the errors of two faces differ as two labels of one picture do; and that all true
    ages are equally likely. Returns, by gap, ``knows`` (such a judge) and ``relabelled`` (a second
    set of labels with errors like the first: both faces change); NaN without duplicates.
    """
    distinct = np.unique(gaps)
    years, weights = label_differences(faces)
    if not len(years):
        return pd.DataFrame({"knows": np.nan, "relabelled": np.nan}, index=distinct)
    both, weight_of_both = np.subtract.outer(years, years), np.outer(weights, weights)
    knows = chance_of_order(distinct, years, weights)
    relabelled = chance_of_order(distinct, both.ravel(), weight_of_both.ravel())
    return pd.DataFrame({"knows": knows, "relabelled": relabelled}, index=distinct)
