import numpy as np
import pandas as pd
import pytest

from utkcmp.evaluation.label_noise import label_differences, noise_ceiling


def faces(**groups):
    rows = [(name, age) for name, ages in groups.items() for age in ages]
    return pd.DataFrame(rows, columns=["group", "age"])


def test_every_picture_counts_the_same():
    years, weights = label_differences(faces(a=[20, 24], b=[30, 30, 33], c=[50]))
    got = dict(zip(years.tolist(), weights.tolist(), strict=True))
    assert got == pytest.approx({-4: 1 / 4, 4: 1 / 4, 0: 1 / 6, 3: 1 / 6, -3: 1 / 6})


def test_the_ceiling_is_that_of_labels_drawn_with_their_errors():
    rng = np.random.default_rng(0)
    # Nine labels in ten are exact, one is 5 years too high: not at all normal.
    errors = rng.choice([0, 5], (4, 200_000), p=[0.9, 0.1])
    pictures = pd.DataFrame(
        {"group": np.tile(np.arange(4000), 2), "age": errors[:2, :4000].ravel()}
    )
    gaps = np.array([1, 4, 5, 6])
    ceiling = noise_ceiling(gaps, pictures)
    known = gaps[:, None] + errors[0] - errors[1]  # the true gap, given the labelled one
    again = known + errors[2] - errors[3]
    for column, gap in (("knows", known), ("relabelled", again)):
        expect = (gap > 0).mean(1) + (gap == 0).mean(1) / 2
        np.testing.assert_allclose(ceiling[column], expect, atol=0.015)


def test_clean_labels_leave_no_ceiling_and_wide_gaps_hardly_any():
    clean = noise_ceiling(np.array([1, 5]), faces(a=[20, 20], b=[30, 30]))
    assert (clean == 1).all(axis=None)
    noisy = noise_ceiling(np.array([1, 5, 40, 5]), faces(a=[20, 24], b=[30, 39]))
    assert noisy.index.tolist() == [1, 5, 40]
    assert noisy.knows.tolist() == [0.5, 0.75, 1]  # differences of 4 and 9 years, either sign
    assert noisy.relabelled.tolist() == [0.625, 0.6875, 1]


def test_without_twins_nothing_is_known():
    assert noise_ceiling(np.array([1, 2]), faces(a=[1], b=[2])).isna().all(axis=None)
