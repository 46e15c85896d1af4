import numpy as np
import pandas as pd
import pytest

from utkcmp.evaluation.label_noise import chance_of_order, label_differences, noise_ceiling


def faces(**groups):
    rows = [(name, age) for name, ages in groups.items() for age in ages]
    return pd.DataFrame(rows, columns=["group", "age"])


def test_every_picture_counts_the_same():
    years, weights = label_differences(faces(a=[20, 24], b=[30, 30, 33], c=[50]))
    got = dict(zip(years.tolist(), weights.tolist(), strict=True))
    assert got == pytest.approx({-4: 1 / 4, 4: 1 / 4, 0: 1 / 6, 3: 1 / 6, -3: 1 / 6})


def test_the_chance_of_order_is_that_of_drawing_both_changes():
    rng = np.random.default_rng(0)
    years, gaps = np.array([-7, -2, 0, 2, 7]), np.array([1, 3, 9, 20])
    weights = np.array([0.1, 0.25, 0.3, 0.25, 0.1])
    drawn = rng.choice(years, (2, 400_000), p=weights)
    changed = gaps[:, None] + drawn[0] - drawn[1]
    expect = (changed > 0).mean(1) + (changed == 0).mean(1) / 2
    np.testing.assert_allclose(chance_of_order(gaps, years, weights), expect, atol=0.003)


def test_clean_labels_leave_no_ceiling_and_wide_gaps_hardly_any():
    clean = noise_ceiling(np.array([1, 5]), faces(a=[20, 20], b=[30, 30]))
    assert (clean == 1).all(axis=None)
    noisy = noise_ceiling(np.array([1, 5, 40, 5]), faces(a=[20, 24], b=[30, 39]))
    assert noisy.index.tolist() == [1, 5, 40] and noisy.knows.is_monotonic_increasing
    assert (noisy.knows >= noisy.relabelled).all() and noisy.knows[40] == 1


def test_without_twins_nothing_is_known():
    assert noise_ceiling(np.array([1, 2]), faces(a=[1], b=[2])).isna().all(axis=None)
