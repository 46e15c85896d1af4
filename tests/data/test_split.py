"""What a split promises: whole pictures, no face that moves, ages divided alike, no leak."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utkcmp.data.split import (
    SPLITS,
    age_shares,
    earlier_split,
    keep_for_evaluation,
    leaked_faces,
    parted_pictures,
    split_faces,
    split_rows,
    write_split,
)
from utkcmp.run import Run

unhurried = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10**6)


def table(n=600, copies=40, seed=0) -> pd.DataFrame:
    """Faces of random ages, the last ``copies`` of them further files of earlier pictures."""
    rng = np.random.default_rng(seed)
    group = np.r_[np.arange(n - copies), rng.integers(0, n - copies, copies)]
    faces = pd.DataFrame({"group": group, "age": rng.integers(1, 100, n), "status": "ok"})
    faces["file"] = [f"{i:06}.jpg" for i in rng.permutation(n)]
    faces["sha256"] = [hashlib.sha256(file.encode()).hexdigest() for file in faces.file]
    ages = faces.groupby("group").age
    faces["conflict"] = ages.transform("max") - ages.transform("min")
    return faces


def by_file(faces, split) -> dict:
    return dict(zip(faces.file, split, strict=True))


def test_shares_are_close_to_those_asked_for():
    got = split_faces(table(20_000), 70, 20, 10).value_counts(normalize=True)
    assert [got[name] for name in SPLITS] == pytest.approx([0.7, 0.2, 0.1], abs=0.012)


def test_each_age_is_divided_alike():
    faces = table(40_000)
    share = (split_faces(faces) == "test").groupby(faces.age).mean()
    assert share.std() < 2 * np.sqrt(0.1 * 0.9 / 400)


@unhurried
@given(seeds)
def test_files_of_one_picture_stay_together(seed):
    faces = table(seed=seed)
    split = split_faces(faces, seed=seed)
    assert split.groupby(faces.group).nunique().max() == 1
    assert set(split) == set(SPLITS)


@unhurried
@given(seeds)
def test_the_order_of_the_files_does_not_matter(seed):
    faces = table()
    shuffled = faces.sample(frac=1, random_state=seed).reset_index(drop=True)
    assert by_file(faces, split_faces(faces)) == by_file(shuffled, split_faces(shuffled))


@unhurried
@given(seeds, st.lists(st.booleans(), min_size=300, max_size=300))
def test_adding_faces_moves_no_old_face(seed, present):
    faces = table(300, copies=0, seed=seed)
    old = faces[np.array(present) | (faces.index < 120)]
    before, after = by_file(old, split_faces(old)), by_file(faces, split_faces(faces))
    assert all(after[file] == split for file, split in before.items())


@unhurried
@given(seeds)
def test_a_byte_identical_copy_moves_nothing_even_without_an_earlier_table(seed):
    faces = table(seed=seed)
    copies = faces.sample(50, random_state=seed).assign(file=[f"0{i}.jpg" for i in range(50)])
    both = pd.concat([copies, faces], ignore_index=True)
    before, after = by_file(faces, split_faces(faces)), by_file(both, split_faces(both))
    assert all(after[file] == split for file, split in before.items())


@unhurried
@given(seeds)
def test_a_renamed_file_stays(seed):
    faces = table(seed=seed)
    renamed = faces.assign(file=[f"folder/{i}.jpg" for i in range(len(faces))])
    assert (split_faces(faces) == split_faces(renamed)).all()


@unhurried
@given(seeds)
def test_a_near_duplicate_follows_the_old_picture(seed):
    faces = table(seed=seed)
    old = faces.iloc[:-40].assign(split=split_faces(faces.iloc[:-40]))
    new = split_faces(faces, previous=old)
    assert (new[old.index] == old.split).all()
    assert new.groupby(faces.group).nunique().max() == 1


@unhurried
@given(seeds)
def test_pictures_that_turn_out_to_be_one_go_to_training_then_validation(seed):
    faces = table(copies=0, seed=seed)
    old = faces.assign(split=split_faces(faces))
    joined = faces.assign(group=np.random.default_rng(seed).integers(0, 300, len(faces)))
    new = split_faces(joined, previous=old)
    assert new.groupby(joined.group).nunique().max() == 1
    rank = {name: number for number, name in enumerate(SPLITS)}
    assert (new.map(rank) == old.split.map(rank).groupby(joined.group).transform("min")).all()


def test_an_earlier_table_of_other_faces_changes_nothing():
    faces, others = table(), table(seed=1)
    others = others.assign(sha256=others.sha256 + "x", split="test")
    assert (split_faces(faces, previous=others) == split_faces(faces)).all()


def test_a_run_keeps_its_own_split_of_the_same_settings_only(tmp_path):
    run, faces = Run(tmp_path / "run"), table()
    faces["split"], faces["evaluate"] = split_faces(faces, seed=1), True
    assert earlier_split(run, seed=1) is None
    write_split(run, faces, seed=1)
    assert (earlier_split(run, seed=1).split == faces.split).all()
    assert earlier_split(run, seed=2) is None
    run.faces_csv.write_text(run.faces_csv.read_text().replace("train", "test"))
    assert earlier_split(run, seed=1) is None


def test_an_age_of_one_face_is_divided_by_the_same_odds():
    faces = table(copies=0).assign(age=lambda some: np.arange(len(some)))
    got = pd.concat([split_faces(faces, seed=seed) for seed in range(10)])
    assert (got == "train").mean() == pytest.approx(0.7, abs=0.03)
    assert (got == "test").mean() == pytest.approx(0.1, abs=0.02)


def test_another_seed_gives_another_split():
    faces = table()
    assert by_file(faces, split_faces(faces, seed=1)) != by_file(faces, split_faces(faces, seed=2))


def test_the_plain_split_is_exact_within_each_age():
    faces = table(4000, copies=0).assign(age=lambda some: np.arange(len(some)) % 40)
    counts = pd.crosstab(faces.age, split_faces(faces, leaky=True))
    assert (abs(counts - [10, 70, 20]) <= 1).all(axis=None)
    shuffled = faces.sample(frac=1, random_state=0)
    again = split_faces(shuffled, leaky=True)
    assert by_file(shuffled, again) == by_file(faces, split_faces(faces, leaky=True))


def test_the_plain_split_parts_pictures_and_leaks():
    faces = table()
    split, plain = split_faces(faces), split_faces(faces, leaky=True)
    assert parted_pictures(faces, split) == 0 and not leaked_faces(faces, split).any()
    assert parted_pictures(faces, plain) == (plain.groupby(faces.group).nunique() > 1).sum() > 0
    leaked = faces[leaked_faces(faces, plain)]
    assert len(leaked) and not (plain[leaked.index] == "train").any()
    assert leaked.group.isin(faces.group[plain == "train"]).all()


def test_shares_by_age_band():
    ages = pd.Series([1, 2, 3, 4, 81, 116])
    split = pd.Series(["train", "train", "val", "test", "train", "val"])
    got = age_shares(ages, split)
    assert got.index.tolist() == [0, 80] and got.faces.tolist() == [4, 2]
    assert got.train.tolist() == [0.5, 0.5] and got.val.tolist() == [0.25, 0.5]


def test_rejected_files_belong_to_no_split():
    faces = table()
    faces.loc[:9, "status"] = "truncated"
    split = split_faces(faces)
    assert (split[:10] == "").all() and (split[10:] != "").all()


@pytest.mark.parametrize("shares", [(70, 20, 20), (100, 0, 0), (80, 30, -10)])
def test_shares_must_be_positive_and_add_up(shares):
    with pytest.raises(ValueError, match="add up to 100"):
        split_faces(table(), *shares)


def test_too_few_faces_are_refused():
    with pytest.raises(ValueError, match="fewer than two ages"):
        split_faces(table(4, copies=0))


def test_faces_of_unknown_age_are_not_evaluated():
    faces = table()
    faces.loc[:9, "status"] = "truncated"
    ok = faces.status == "ok"
    keep = keep_for_evaluation(faces, max_conflict=5)
    assert keep.dtype == bool and not keep[:10].any()
    assert (faces.conflict[keep] <= 5).all() and (faces.conflict[ok & ~keep] > 5).all()


def test_what_training_sees_of_duplicates():
    faces = table()
    faces["split"], faces["evaluate"] = split_faces(faces), keep_for_evaluation(faces)
    everything = split_rows(faces, "train")
    assert (faces.split[everything] == "train").all()
    assert faces.evaluate[split_rows(faces, "train", "drop_conflicts")].all()
    with pytest.raises(ValueError, match="expected keep, drop_conflicts or drop_all_but_one"):
        split_rows(faces, "train", "drop")


def test_one_of_each_picture_is_left_also_where_pictures_are_parted():
    faces = table(copies=200)
    for leaky in (False, True):
        faces["split"] = split_faces(faces, leaky=leaky)
        everything = split_rows(faces, "train")
        one_each = split_rows(faces, "train", "drop_all_but_one")
        assert faces.group[one_each].is_unique and (np.diff(one_each) > 0).all()
        assert set(faces.group[one_each]) == set(faces.group[everything])


def test_the_one_that_is_left_is_not_always_the_youngest():
    faces = pd.DataFrame({"group": np.repeat(np.arange(500), 2), "split": "train"})
    faces["age"] = np.tile([20, 30], 500)
    faces["file"] = [f"{age}_{row}.jpg" for row, age in enumerate(faces.age)]
    got = faces.age[split_rows(faces, "train", "drop_all_but_one")].mean()
    assert got == pytest.approx(25, abs=1)
