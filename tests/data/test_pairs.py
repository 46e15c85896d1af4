"""Pairs against brute force on small sets, for every option."""

import tracemalloc
import warnings
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from utkcmp.data.pairs import AllPairs, Pairs, sample_pairs, split_pairs

settings.register_profile("unhurried", deadline=None)  # machines may be busy
settings.load_profile("unhurried")

few_ages = st.lists(st.integers(0, 12), min_size=2, max_size=14)
year_diffs = st.integers(1, 5)
seeds = st.integers(0, 2**31 - 1)


def brute_force(ages, year_diff=1) -> set:
    """All pairs (older, younger) at least year_diff apart."""
    both = [(i, j) for i, j in combinations(range(len(ages)), 2)]
    turned = [(i, j) if ages[i] > ages[j] else (j, i) for i, j in both]
    return {(i, j) for i, j in turned if ages[i] - ages[j] >= year_diff}


def older_younger(pairs: Pairs) -> list:
    """The pairs in order, the older face first."""
    lefts = pairs.label == 1
    older, younger = (
        np.where(lefts, pairs.left, pairs.right),
        np.where(lefts, pairs.right, pairs.left),
    )
    return list(zip(older.tolist(), younger.tolist(), strict=True))


def quietly(ages, **options) -> Pairs:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sample_pairs(np.array(ages), **options)


# ---- all pairs -----------------------------------------------------------------------------------


@given(few_ages, year_diffs, seeds)
def test_all_pairs_are_those_of_brute_force_each_once(ages, year_diff, seed):
    expect = brute_force(ages, year_diff)
    assume(expect)
    for size in (None, -1, len(expect)):
        got = older_younger(
            sample_pairs(np.array(ages), data_size=size, year_diff=year_diff, seed=seed)
        )
        assert len(got) == len(expect) and set(got) == expect
    every = AllPairs(np.array(ages), year_diff)
    assert len(every) == len(expect) and set(older_younger(every[:])) == expect


@given(few_ages, year_diffs, st.data())
def test_all_pairs_are_sliced_as_a_list_is(ages, year_diff, data):
    assume(brute_force(ages, year_diff))
    every = AllPairs(np.array(ages), year_diff)
    expect = older_younger(every[:])
    some = data.draw(st.slices(len(every)))
    assert older_younger(every[some]) == expect[some]


def test_all_pairs_of_a_million_faces_are_never_held():
    every = AllPairs(np.random.default_rng(0).integers(1, 100, 1_000_000))
    assert len(every) > 4e11
    tracemalloc.start()
    got = every[5 : len(every) : len(every) // 1000]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(got) == 1001 and peak < 1e6


def test_about_half_of_all_pairs_have_the_older_face_left():
    label = AllPairs(np.random.default_rng(0).integers(1, 100, 300))[:].label
    assert abs(label.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(label))


# ---- samples -------------------------------------------------------------------------------------


@given(few_ages, year_diffs, st.integers(0, 30), seeds)
def test_a_sample_is_valid_distinct_balanced_and_repeatable(ages, year_diff, size, seed):
    possible = brute_force(ages, year_diff)
    assume(possible)
    options = {"data_size": size, "year_diff": year_diff, "seed": seed}
    pairs = quietly(ages, **options)
    got = older_younger(pairs)
    assert len(got) == len(set(got)) == min(size, len(possible))
    assert set(got) <= possible
    assert abs(2 * int(pairs.label.sum()) - len(pairs)) <= 1
    assert (pairs.left.dtype, pairs.right.dtype, pairs.label.dtype) == (int, int, np.int8)
    again = quietly(ages, **options)
    assert all(np.array_equal(getattr(pairs, k), getattr(again, k)) for k in vars(pairs))


@given(few_ages, st.integers(1, 30), st.floats(0, 1), seeds)
def test_mirrors_come_last_and_turn_pairs_that_are_there(ages, size, probability, seed):
    assume(brute_force(ages))
    plain = quietly(ages, data_size=size, seed=seed)
    pairs = quietly(ages, data_size=size, seed=seed, duplicate_probability=probability)
    got, once = older_younger(pairs), older_younger(plain)
    assert got[: len(once)] == once
    mirrors = pairs[len(once) :]
    assert len(set(older_younger(mirrors))) == len(mirrors)
    original = {(a, b) for a, b in zip(plain.left.tolist(), plain.right.tolist(), strict=True)}
    assert {(b, a) for a, b in zip(mirrors.left, mirrors.right, strict=True)} <= original
    if probability in (0, 1):
        assert len(mirrors) == probability * len(once)


def test_mirrors_are_as_many_as_the_probability_says():
    ages = np.random.default_rng(0).integers(1, 100, 1000)
    got = sample_pairs(ages, data_size=10_000, duplicate_probability=0.3)
    assert abs(len(got) - 13_000) < 4 * np.sqrt(10_000 * 0.3 * 0.7)


def test_all_pairs_are_equally_likely_on_either_side():
    ages = np.array([1, 2, 2, 3, 5])
    expect = brute_force(ages)
    counts = dict.fromkeys([*expect, *[pair[::-1] for pair in expect]], 0)
    for seed in range(6000):
        pairs = sample_pairs(ages, data_size=2, seed=seed)
        for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
            counts[pair] += 1
    mean = 12_000 / len(counts)
    assert len(counts) == 18
    assert all(abs(count - mean) < 5 * np.sqrt(mean) for count in counts.values()), counts


def test_a_small_sample_of_many_pairs_is_spread_over_all():
    ages = np.arange(3000)
    pairs = sample_pairs(ages, data_size=40_000, seed=1)
    times = np.bincount(np.r_[pairs.left, pairs.right], minlength=3000)
    assert len(set(older_younger(pairs))) == 40_000
    assert abs(times.mean() - 80_000 / 3000) < 1e-9 and times.var() < 1.15 * times.mean()


@given(st.lists(st.integers(0, 255), min_size=2, max_size=20), seeds)
def test_the_type_of_the_ages_does_not_matter(ages, seed):
    assume(len(set(ages)) > 1)
    expect = sample_pairs(np.array(ages), seed=seed)
    for kind in (np.uint8, np.int16, np.float32, "Int64", object):
        typed = pd.array(ages, kind) if kind == "Int64" else np.array(ages, kind)
        got = sample_pairs(typed, seed=seed)
        assert np.array_equal(got.left, expect.left) and np.array_equal(got.right, expect.right)


def test_swapping_the_faces_swaps_the_label():
    pairs = sample_pairs(np.array([3, 1, 4, 1, 5]))
    assert np.array_equal(pairs.mirrored().label, 1 - pairs.label)
    assert np.array_equal(pairs.mirrored().left, pairs.right)


# ---- each face once ------------------------------------------------------------------------------


def most_by_brute_force(ages, year_diff) -> int:
    """The size of the largest matching, by trying both fates of the first face."""
    if len(ages) < 2:
        return 0
    first, rest = ages[0], ages[1:]
    best = most_by_brute_force(rest, year_diff)
    for i, other in enumerate(rest):
        if abs(first - other) >= year_diff:
            best = max(best, 1 + most_by_brute_force(rest[:i] + rest[i + 1 :], year_diff))
    return best


@settings(max_examples=60)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=8), st.integers(1, 4), seeds)
def test_unique_images_reach_the_largest_matching(ages, year_diff, seed):
    possible = brute_force(ages, year_diff)
    assume(possible)
    expect = most_by_brute_force(ages, year_diff)
    pairs = quietly(ages, year_diff=year_diff, unique_images=True, seed=seed)
    assert len(pairs) == expect == AllPairs(ages, year_diff).possible(True)
    assert set(older_younger(pairs)) <= possible
    used = np.r_[pairs.left, pairs.right]
    assert len(np.unique(used)) == len(used)
    assert abs(2 * int(pairs.label.sum()) - len(pairs)) <= 1


@given(few_ages, st.integers(0, 10), st.floats(0, 1), seeds)
def test_unique_images_of_any_size_with_mirrors(ages, size, probability, seed):
    assume(brute_force(ages))
    most = len(quietly(ages, unique_images=True))
    options = {"data_size": size, "unique_images": True, "seed": seed}
    plain = quietly(ages, **options)
    assert len(plain) == min(size, most)
    used = np.r_[plain.left, plain.right]
    assert len(np.unique(used)) == len(used)
    mirrored = quietly(ages, duplicate_probability=probability, **options)
    assert set(older_younger(mirrored)) == set(older_younger(plain))


def test_unique_images_have_the_gaps_of_chance():
    ages = np.random.default_rng(0).integers(1, 100, 4000)
    chance = sample_pairs(ages, data_size=100_000)
    unique = sample_pairs(ages, unique_images=True)
    assert len(unique) == 2000
    gap = {len(p): np.abs(ages[p.left] - ages[p.right]) for p in (chance, unique)}
    for part in (0.1, 0.5, 0.9):
        assert abs(np.quantile(gap[100_000], part) - np.quantile(gap[2000], part)) <= 3


def test_unique_images_use_every_face_where_one_age_is_half_of_all():
    ages = np.random.default_rng(0).permutation([30] * 50 + [*range(25), *range(40, 65)])
    assert len(sample_pairs(ages, unique_images=True)) == 50


# ---- warnings and errors -------------------------------------------------------------------------


def test_a_size_that_cannot_be_reached_is_a_warning_that_says_the_size_reached():
    with pytest.warns(UserWarning, match=r"1,000 pairs were asked for, the 4 faces give 5"):
        assert len(sample_pairs(np.array([1, 1, 2, 3]), data_size=1000)) == 5
    with pytest.warns(UserWarning, match="each face used once, give 2"):
        sample_pairs(np.array([1, 1, 2, 3]), data_size=1000, unique_images=True)


def test_a_size_that_can_be_reached_and_no_size_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (None, -1, 0, 5):
            sample_pairs(np.array([1, 1, 2, 3]), data_size=size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duplicate_probability": -0.1}, "duplicate_probability is -0.1, expected 0 to 1"),
        ({"duplicate_probability": 1.5}, "duplicate_probability is 1.5, expected 0 to 1"),
        ({"duplicate_probability": float("nan")}, "duplicate_probability is nan"),
        ({"year_diff": 0}, "year_diff is 0, expected 1 or more years"),
        ({"year_diff": -3}, "year_diff is -3"),
        ({"year_diff": float("nan")}, "year_diff is nan"),
        ({"year_diff": 3}, r"no two of the 3 faces are 3 or more years apart .* from 1 to 3"),
    ],
)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        sample_pairs(np.array([1, 2, 3]), **options)


@pytest.mark.parametrize(
    ("ages", "message"),
    [
        ([], "0 faces have fewer than two distinct ages"),
        ([7], "1 face has fewer"),
        ([7, 7, 7], "3 faces have fewer than two distinct ages: expected at least two"),
        ([7, np.nan, 8], "1 ages are not numbers"),
        ([7, np.inf], "1 ages are not numbers"),
        (pd.array([7, None, 8], "Int64"), "1 ages are not numbers"),
        ([[1, 2], [3, 4]], r"ages have shape \(2, 2\)"),
    ],
)
def test_ages_of_which_no_pair_can_be_made_are_errors(ages, message):
    for make in (sample_pairs, AllPairs):
        with pytest.raises(ValueError, match=message):
            make(ages)


# ---- memory and the pairs of a split -------------------------------------------------------------


def test_memory_grows_with_faces_and_pairs_only():
    def peak(faces: int, size: int) -> int:
        ages = np.random.default_rng(0).integers(1, 100, faces)
        tracemalloc.start()
        sample_pairs(ages, data_size=size)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(16_500, 100_000) < 20e6
    assert peak(160_000, 10_000) < 160_000 * 60


@pytest.fixture
def faces():
    rng = np.random.default_rng(0)
    split = np.repeat(["train", "val", "test"], [70, 40, 30])
    table = pd.DataFrame({"age": rng.integers(1, 90, 140), "split": rng.permutation(split)})
    table["evaluate"] = rng.random(140) < 0.9
    table["group"] = rng.integers(0, 120, 140)
    table["file"] = [f"{i}.jpg" for i in range(140)]
    return table


def test_the_pairs_of_a_split_are_rows_of_its_faces(faces):
    for split in ("train", "val", "test"):
        rows = split_pairs(faces, split, data_size=200)
        used = np.unique(np.r_[rows.left, rows.right])
        assert (faces.split[used] == split).all()
        assert split == "train" or faces.evaluate[used].all()
        assert (
            (faces.age.to_numpy()[rows.left] > faces.age.to_numpy()[rows.right]) == rows.label
        ).all()


def test_training_pairs_honour_duplicates(faces):
    for duplicates in ("keep", "drop_conflicts", "drop_all_but_one"):
        pairs = split_pairs(faces, "train", duplicates=duplicates)
        used = faces.loc[np.unique(np.r_[pairs.left, pairs.right])]
        assert used.evaluate.all() == (duplicates == "drop_conflicts")
        assert used.group.is_unique == (duplicates == "drop_all_but_one")


def test_a_split_that_is_too_small_warns_for_training_only(faces):
    with pytest.warns(UserWarning, match="were asked for"):
        split_pairs(faces, "train", data_size=100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = split_pairs(faces, "val", data_size=100_000)
    chosen = faces[(faces.split == "val") & faces.evaluate]
    assert len(got) == len(brute_force(chosen.age.tolist()))


def test_a_split_of_another_name_is_an_error(faces):
    with pytest.raises(ValueError, match="split is 'dev', expected one of train, val, test"):
        split_pairs(faces, "dev")


def test_the_table_of_pairs_names_faces_and_ages(faces):
    pairs = split_pairs(faces, "train", data_size=20)
    table = pairs.table(faces)
    assert ((table.left_age > table.right_age) == table.label).all()
    assert (faces.file[table.left].to_numpy() == table.left_file).all()
    assert list(table) == ["left", "right", "label", "left_age", "right_age"] + [
        "left_file",
        "right_file",
    ]
