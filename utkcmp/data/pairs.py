"""Pairs of faces labelled by which is older, sampled in O(N + K) memory.

Sorted by age, face i can be the older one of a pair with each of the first c[i] faces, those at
least ``year_diff`` years younger. This numbers all valid pairs from 0 to sum(c) - 1; sampling pairs
means sampling numbers, and a binary search maps a number to its pair.
"""

import warnings
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr

from utkcmp.data.split import SPLITS, split_rows

MIXING_ROUNDS = 24  # for 16,500 faces, gaps are random after five


@dataclass(frozen=True)
class Pairs:
    """K pairs of faces, indexed by a slice, a mask or an array.

    left, right: int64 (K,), indices of faces; label: int8 (K,), 1 if the left face is older, 0 if
    the right one is. Faces of equal age make no pair.
    """

    left: np.ndarray
    right: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, some) -> "Pairs":
        return Pairs(*(np.atleast_1d(part[some]) for part in (self.left, self.right, self.label)))

    def take(self, rows: np.ndarray) -> "Pairs":
        """The same pairs with each index i replaced by rows[i]."""
        return Pairs(rows[self.left], rows[self.right], self.label)

    def by_face(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The distinct faces, int64 (N,), and left and right as indices into them, int64 (K,)."""
        faces, places = np.unique(np.concatenate([self.left, self.right]), return_inverse=True)
        return faces, *np.split(places, 2)

    def mirrored(self) -> "Pairs":
        """The same pairs with left and right swapped."""
        return Pairs(self.right, self.left, 1 - self.label)

    def table(self, faces: pd.DataFrame) -> pd.DataFrame:
        """One row per pair: left, right, label, left_age, right_age (years), left_file, right_file.

        faces: columns age, file; left and right are its row numbers.
        """
        columns = {"left": self.left, "right": self.right, "label": self.label}
        for name in ("age", "file"):
            values = faces[name].to_numpy()
            columns |= {f"left_{name}": values[self.left], f"right_{name}": values[self.right]}
        return pd.DataFrame(columns)


class AllPairs:
    """Every pair at least ``year_diff`` years apart, each once, generated on demand.

    ages: (N,) years. Has a length; a slice gives Pairs. A hash of a pair's number decides which
    face is on the left. Raises ValueError as ``sample_pairs`` does.

    >>> every = AllPairs(np.array([20, 30, 30]))
    >>> len(every), sorted(every[:1].left.tolist() + every[:1].right.tolist())
    (2, [0, 1])
    """

    def __init__(self, ages: np.ndarray, year_diff: int = 1):
        if np.ndim(ages) != 1:
            raise ValueError(f"ages have shape {np.shape(ages)}, expected one number for each face")
        ages = pd.Series(ages).astype(float).to_numpy()  # differences do not overflow
        if not np.isfinite(ages).all():
            raise ValueError(f"{(~np.isfinite(ages)).sum()} ages are not numbers: expected all")
        if not year_diff >= 1:
            raise ValueError(f"year_diff is {year_diff}, expected 1 or more years")
        if not len(ages) or ages.min() == ages.max():
            some = "1 face has" if len(ages) == 1 else f"{len(ages)} faces have"
            raise ValueError(f"{some} fewer than two distinct ages: expected at least two")
        self.year_diff = year_diff
        self.order = np.argsort(ages, kind="stable")  # (N,) youngest first
        self.sorted_ages = ages[self.order]
        self.younger = np.searchsorted(self.sorted_ages, self.sorted_ages - year_diff, "right")
        self.ends = np.cumsum(self.younger)  # pairs with face i as the older one end here
        if not len(self):
            raise ValueError(
                f"no two of the {len(ages)} faces are {year_diff} or more years apart (the ages "
                f"run from {ages.min():g} to {ages.max():g}): expected a smaller year_diff"
            )

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, some: slice) -> Pairs:
        numbers = np.arange(*some.indices(len(self)))
        return _placed(*self.decode(numbers), _coins(numbers))

    def possible(self, unique_images: bool = False) -> int:
        """The number of pairs or, with ``unique_images``, of pairs without common faces.

        m of these exist if the m youngest faces, in order, are far enough from the m oldest.

        >>> AllPairs(np.arange(4)).possible(), AllPairs(np.arange(3)).possible(unique_images=True)
        (6, 1)
        """
        ages, counts = self.sorted_ages, range(1, len(self.order) // 2 + 1)
        if not unique_images:
            return len(self)
        return bisect_left(counts, 1, key=lambda m: (ages[-m:] - ages[:m] < self.year_diff).any())

    def decode(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The older and the younger faces of numbered pairs, each int64 (K,)."""
        place = np.searchsorted(self.ends, numbers, side="right")
        return self.order[place], self.order[numbers - (self.ends[place] - self.younger[place])]


def _coins(numbers: np.ndarray) -> np.ndarray:
    """A fair coin per number: one bit of splitmix64's finaliser."""
    mixed = numbers.astype(np.uint64) + np.uint64((42 * 0x9E3779B97F4A7C15 + 1) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) & np.uint64(1)).astype(bool)


def _placed(older: np.ndarray, younger: np.ndarray, older_left: np.ndarray) -> Pairs:
    left, right = np.where(older_left, older, younger), np.where(older_left, younger, older)
    return Pairs(left, right, older_left.astype(np.int8))


def sample_pairs(
    ages: np.ndarray,
    *,
    data_size: int | None = None,
    year_diff: int = 1,
    duplicate_probability: float = 0.0,
    unique_images: bool = False,
    seed: int = 42,
) -> Pairs:
    """Draw pairs of faces without replacement, reproducibly.

    ages: (N,) years. data_size: number of pairs, None or negative for all; if there are fewer, a
    warning says how many. year_diff: least age difference, years. duplicate_probability: chance of
    each pair to be repeated with the faces swapped, beyond ``data_size``. unique_images: use each
    face in at most one pair.
    All pairs are equally likely (except with unique_images), and half of them, to within one, have
    the older face on the left. Returns Pairs of indices into ``ages``, in random order, swapped
    repeats last. Raises ValueError for options out of range or ages that allow no pair.

    >>> pairs = sample_pairs(np.array([10, 20, 30, 40]), data_size=4)
    >>> len(pairs), int(pairs.label.sum())
    (4, 2)
    """
    if not 0 <= duplicate_probability <= 1:
        raise ValueError(f"duplicate_probability is {duplicate_probability}, expected 0 to 1")
    every, rng = AllPairs(ages, year_diff), np.random.default_rng(seed)
    possible = every.possible(unique_images)
    size = possible if data_size is None or data_size < 0 else min(data_size, possible)
    if data_size is not None and data_size > possible:
        once = ", each face used once," if unique_images else ""
        warnings.warn(
            f"{data_size:,} pairs were asked for, the {len(every.order):,} faces{once} give "
            f"{possible:,} that are {year_diff} or more years apart",
            stacklevel=2,
        )
    if unique_images:
        older, younger = _disjoint(every, possible, rng)[:size].T
    else:
        older, younger = every.decode(_distinct(possible, size, rng))
    older_left = rng.permutation(size) % 2 == 0
    again = np.flatnonzero(rng.random(size) < duplicate_probability)
    rows = np.r_[np.arange(size), again]
    return _placed(older[rows], younger[rows], np.r_[older_left, ~older_left[again]])


def _distinct(total: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` distinct numbers below ``total``, in random order, in O(size) memory."""
    if 4 * size >= total:
        return rng.permutation(total)[:size]
    numbers = np.empty(0, dtype=np.int64)
    while len(numbers) < size:  # usually once: at most a quarter collide
        drawn = rng.integers(0, total, size + size // 4 + 16)
        numbers = np.sort(np.concatenate([numbers, drawn]))  # np.unique takes 60 times as long
        numbers = numbers[np.diff(numbers, prepend=-1) > 0]
    return rng.permutation(numbers)[:size]


def _disjoint(every: AllPairs, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` pairs without common faces, (count, 2), the older first, in random order.

    Starts with the youngest faces paired with the oldest, which allows the most pairs but only wide
    gaps. Then random pairs swap faces with each other and with unused faces where the ages allow,
    until the gaps are random.
    """
    ages = every.sorted_ages
    pairs = np.stack([np.arange(count), np.arange(len(ages) - count, len(ages))], axis=1)
    free = np.arange(count, len(ages) - count)
    half, spare = count // 2, min(count, len(free))

    def apart(some, others):
        return np.abs(ages[some] - ages[others]) >= every.year_diff

    for _ in range(MIXING_ROUNDS):
        pairs = pairs[rng.permutation(count)]
        turned = rng.random(count) < 0.5
        pairs[turned] = pairs[turned, ::-1]
        one, other = pairs[:half], pairs[half : 2 * half]
        good = apart(one[:, 0], other[:, 1]) & apart(other[:, 0], one[:, 1])
        one[good, 1], other[good, 1] = other[good, 1], one[good, 1]
        rng.shuffle(free)
        good = np.flatnonzero(apart(pairs[:spare, 0], free[:spare]))
        pairs[good, 1], free[good] = free[good], pairs[good, 1]
    return every.order[np.sort(pairs, axis=1)[:, ::-1]]  # places are in order of age


def split_pairs(
    faces: pd.DataFrame, split: str, *, duplicates: str = "keep", seed: int = 42, **options
) -> Pairs:
    """The pairs of one split, as row numbers of ``faces``; other options as in ``sample_pairs``.

    faces: the valid rows of faces.csv (columns age, split, evaluate, group, file), of which
    ``split_rows`` selects. Each split has its own seed. Only training warns if there are fewer
    pairs than ``data_size``. Raises ValueError for an unknown split and as ``sample_pairs`` does.
    """
    rows = split_rows(faces, split, duplicates)
    with warnings.catch_warnings():
        if split != "train":
            warnings.filterwarnings("ignore", message=r"[\d,]+ pairs were asked for")
        ages = faces.age.to_numpy(np.int64)[rows]
        return sample_pairs(ages, seed=seed + SPLITS.index(split), **options).take(rows)


def chance_right(gaps: np.ndarray, error: float) -> np.ndarray:
    """The probability that a judge with normal errors of age orders pairs correctly.

    gaps: (K,) years; error: standard deviation of each age, years. Returns (K,) in 0.5 to 1.

    >>> chance_right(np.array([0, 5, 20]), error=5).round(2)
    array([0.5 , 0.76, 1.  ])
    """
    return ndtr(np.asarray(gaps) / (np.sqrt(2) * error))
