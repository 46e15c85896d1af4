"""How well could anyone do? What pictures with two labels say about the noise in all labels."""

import numpy as np
import pandas as pd

SPLIT_ERROR = 2**0.5  # a difference of two labels holds the errors of both


def label_differences(faces: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The differences between two labels of one picture, and how much each of them counts.

    faces: valid rows with columns group and age (years). Takes every ordered pair of files of a
    picture, so the differences are symmetric around 0; each picture counts the same in all.
    Returns (D,) distinct years and their (D,) weights, which sum to 1; both empty if no picture
    comes twice.
    """
    files = faces[["group", "age"]].reset_index(drop=True).reset_index()
    both = files.merge(files, on="group").query("index_x != index_y")
    share = 1 / both.groupby("group").age_x.transform("size")
    weights = share.groupby(both.age_x - both.age_y).sum()
    return weights.index.to_numpy(int), weights.to_numpy() / max(weights.sum(), 1)


def chance_of_order(gaps: np.ndarray, years: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How often a pair keeps its order when both faces' labels change by such random years.

    gaps: (K,) years, positive; years, weights: (D,), a distribution symmetric around 0. The two
    changes are independent of each other and of the ages; equal ages count half. Returns (K,).

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
    """The accuracy that label noise leaves to a judge who knows the true ages, by age gap.

    gaps: (K,) years, positive whole numbers. Assumes that pictures that come twice are labelled as
    well as all others; that the two labels of one were given independently, with errors alike and
    independent of the age, so that one label's error is their difference over the root of two; and
    that all true ages are equally likely. Returns one row a gap with ``knows`` (such a judge) and
    ``relabelled`` (a second set of labels, errors like the first); NaN if no picture comes twice.
    """
    distinct = np.unique(gaps)
    years, weights = label_differences(faces)
    if not len(years):
        return pd.DataFrame({"knows": np.nan, "relabelled": np.nan}, index=distinct)
    return pd.DataFrame(
        {
            "knows": chance_of_order(distinct, years / SPLIT_ERROR, weights),
            "relabelled": chance_of_order(distinct, years, weights),
        },
        index=distinct,
    )
