"""The split into training, validation and test faces: free of leaks and stable.

A hash of its content and the seed decides the split of every picture (a group of duplicates), so
duplicates stay together and faces never change sides when others are added. The price: each age is
split 70/20/10 only in expectation, with an error of about sqrt(0.7 * 0.3 / n) for n faces. With
``previous``, known faces also stay where they are if a new file joins their group. If it joins
groups of different splits, training takes precedence, then validation, as no model may be tested on
what it has learnt.
"""

import hashlib

import numpy as np
import pandas as pd

from utkcmp.files import write_csv
from utkcmp.run import Run

SPLITS = ("train", "val", "test")


def split_faces(
    faces: pd.DataFrame,
    train: int = 70,
    val: int = 20,
    test: int = 10,
    seed: int = 42,
    leaky: bool = False,
    previous: pd.DataFrame | None = None,
) -> pd.Series:
    """Assign every valid face to "train", "val" or "test"; rejected files get "".

    faces: N rows with columns file, age, sha256, group, status. train, val, test: per cent of the
    faces, sum 100. leaky: the course project's random split within each age instead, which ignores
    duplicates. previous: an earlier table (columns sha256, split) of the same percentages and seed,
    whose faces keep their split. Returns (N,) str with the index of ``faces``.
    Raises ValueError for invalid percentages, or if a split has fewer than two distinct ages, thus
    no pair.

    >>> names = list("abcdefghijklmnopqrstuvwxyz")
    >>> faces = pd.DataFrame({"file": names, "sha256": names, "age": range(26), "group": range(26)})
    >>> sorted(split_faces(faces.assign(status="ok"), 40, 30, 30, seed=1).unique())
    ['test', 'train', 'val']
    """
    if train + val + test != 100 or not min(train, val, test) > 0:
        raise ValueError(
            f"train, val and test are {train}, {val} and {test} per cent: expected three positive "
            "numbers that add up to 100"
        )
    ok = (faces.status == "ok").to_numpy(bool)
    valid, cuts = faces[ok].reset_index(drop=True), [train / 100, (train + val) / 100]
    if leaky:  # numbers stratified over [0, 1) within each age, in random order
        rng = np.random.default_rng(seed)
        shuffled = valid.sort_values("file").sample(frac=1, random_state=rng)
        by_age = shuffled.groupby("age").age
        draws = (by_age.cumcount() + rng.random(len(shuffled))) / by_age.transform("size")
        draws = draws.loc[valid.index]
    else:
        content = valid.groupby("group").sha256.transform("min")
        draws = [_uniform(sha256, seed) for sha256 in content]
    places = np.searchsorted(cuts, draws, side="right")
    if previous is not None and not leaky:
        known = previous[previous.split.isin(SPLITS)]
        old = dict(zip(known.sha256, known.split.map(SPLITS.index), strict=True))
        kept = valid.sha256.map(old).groupby(valid.group).transform("min")
        places = np.where(kept.notna(), kept, places).astype(int)
    for number, name in enumerate(SPLITS):
        if valid.age[places == number].nunique() < 2:
            raise ValueError(
                f"the {name} split has faces of fewer than two ages ({len(valid)} valid faces in "
                "all): expected more faces or a larger share"
            )
    split = np.full(len(faces), "", dtype=object)
    split[ok] = np.array(SPLITS, dtype=object)[places]
    return pd.Series(split, index=faces.index, name="split", dtype=str)


def _uniform(text: str, seed: int) -> float:
    """A hash of ``text`` and the seed as a number in [0, 1)."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def keep_for_evaluation(faces: pd.DataFrame, max_conflict: int = 5) -> pd.Series:
    """Whether a face is fit for evaluation: (N,) bool.

    Excluded are rejected files and faces with labels more than ``max_conflict`` years apart.
    faces: columns status, conflict (years).
    """
    return ((faces.status == "ok") & (faces.conflict <= max_conflict)).rename("evaluate")


def split_rows(faces: pd.DataFrame, split: str, duplicates: str = "keep") -> np.ndarray:
    """Row numbers, int64, of one split; of "val" and "test", the faces marked ``evaluate``.

    faces: the valid rows of faces.csv. duplicates, of training: "keep" takes all; "drop_conflicts"
    excludes faces not marked ``evaluate``; "drop_all_but_one" takes one file per picture, by a hash
    of its name, since the first by name would have the lowest age. Raises ValueError for others.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    if duplicates not in ("keep", "drop_conflicts", "drop_all_but_one"):
        raise ValueError(
            f"duplicates is {duplicates!r}, expected keep, drop_conflicts or drop_all_but_one"
        )
    chosen = np.flatnonzero(faces.split == split)
    if split != "train" or duplicates == "drop_conflicts":
        return chosen[faces.evaluate.to_numpy(bool)[chosen]]
    if duplicates == "drop_all_but_one":
        some = faces.iloc[chosen].reset_index(drop=True)
        drawn = some.assign(draw=[_uniform(name, 0) for name in some.file]).sort_values("draw")
        return chosen[np.sort(drawn.drop_duplicates("group").index)]
    return chosen


def parted_pictures(faces: pd.DataFrame, split: pd.Series) -> int:
    """The number of pictures with files in more than one split: 0, unless the split is leaky.

    faces: columns group, status; split: as ``split_faces`` returns it.
    """
    valid = faces.status == "ok"
    return int((split[valid].groupby(faces.group[valid]).nunique() > 1).sum())


def leaked_faces(faces: pd.DataFrame, split: pd.Series) -> pd.Series:
    """Which validation and test faces have a duplicate in training: (N,) bool.

    faces: columns group, status; split: as ``split_faces`` returns it.
    """
    seen = faces.group[split == "train"]
    return split.isin(SPLITS[1:]) & faces.group.isin(seen)


def age_shares(ages: pd.Series, split: pd.Series) -> pd.DataFrame:
    """The share of each split by age, in bands of ten years, the last from 80 on.

    ages: (N,) years; split: (N,) of SPLITS, same index. Returns a row per band, indexed by its
    first year, with columns faces (count), train, val and test (shares).
    """
    band = (ages // 10 * 10).clip(upper=80).astype(int).rename("from age")
    shares = {name: (split == name).groupby(band).mean() for name in SPLITS}
    return pd.DataFrame({"faces": band.groupby(band).size(), **shares})


def write_split(run: Run, faces: pd.DataFrame, **settings) -> None:
    """Write faces.csv, and its settings to run.json."""
    write_csv(faces, run.faces_csv)
    run.record("split", settings=settings, table=_digest(run))


def earlier_split(run: Run, **settings) -> pd.DataFrame | None:
    """The run's faces.csv if it was made with these settings, else None."""
    recorded = run.read_record().get("split", {})
    if not run.faces_csv.exists() or recorded.get("settings") != settings:
        return None
    return run.read_faces() if recorded.get("table") == _digest(run) else None


def _digest(run: Run) -> str:
    return hashlib.sha256(run.faces_csv.read_bytes()).hexdigest()
