import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from test_evaluation import random_pairs

from utkcmp.bootstrap import bootstrap_faces, intervals, paired_differences
from utkcmp.pairs import AllPairs, Pairs


@pytest.mark.parametrize("ties", [False, True])
def test_the_bootstrap_weighs_pairs_by_how_often_both_faces_were_drawn(ties):
    pairs, logits = random_pairs(ties=ties)
    got = bootstrap_faces(logits, pairs, resamples=20, seed=3)
    faces, positions = np.unique(np.r_[pairs.left, pairs.right], return_inverse=True)
    left, right = np.split(positions, 2)
    rng = np.random.default_rng(3)
    share = np.full(len(faces), 1 / len(faces))
    for row, counts in zip(
        got.itertuples(), rng.multinomial(len(faces), share, size=20), strict=True
    ):
        weight = counts[left] * counts[right]
        correct = (logits > 0) == (pairs.label == 1)
        assert row.accuracy == pytest.approx(np.average(correct, weights=weight), abs=1e-6)
        expect = roc_auc_score(pairs.label, logits, sample_weight=weight)
        assert row.auc == pytest.approx(expect, abs=1e-6)


def test_intervals_are_the_middle_95_per_cent():
    pairs, logits = random_pairs()
    resampled = bootstrap_faces(logits, pairs, resamples=400)
    got = intervals(resampled)
    inside = resampled.auc.between(got["auc_low"], got["auc_high"]).mean()
    assert inside == pytest.approx(0.95, abs=0.01)


def test_intervals_over_faces_are_wider_than_over_independent_pairs():
    """A per-face error is shared by all of a face's pairs; an interval over pairs would hide it."""
    rng = np.random.default_rng(0)
    left, right = np.triu_indices(40, 1)
    ages, seen = rng.normal(size=40), rng.normal(size=40)
    seen += ages
    pairs = Pairs(left, right, (ages[left] > ages[right]).astype("int8"))
    logits = seen[left] - seen[right]
    got = intervals(bootstrap_faces(logits, pairs, resamples=500))
    accuracy = ((logits > 0) == (pairs.label == 1)).mean()
    naive = 2 * 1.96 * np.sqrt(accuracy * (1 - accuracy) / len(left))
    assert got["accuracy_high"] - got["accuracy_low"] > 1.5 * naive


def scored_faces(rng, n_faces, error=10.0):
    """Ages, and what a model makes of them: all pairs and their logits."""
    ages = rng.integers(1, 90, n_faces)
    scores = ages + rng.normal(0, error, n_faces)
    pairs = AllPairs(ages)[:]
    return pairs, 0.1 * (scores[pairs.left] - scores[pairs.right])


def test_bins_cost_the_area_next_to_nothing():
    rng = np.random.default_rng(0)
    pairs, logits = scored_faces(rng, 120)
    got = bootstrap_faces(logits, pairs, resamples=5, seed=1)
    counts = np.random.default_rng(1).multinomial(120, np.full(120, 1 / 120), size=5)
    for row, count in zip(got.itertuples(), counts, strict=True):
        weight = count[pairs.left] * count[pairs.right]
        expect = roc_auc_score(pairs.label, logits, sample_weight=weight)
        assert row.auc == pytest.approx(expect, abs=5e-5)
        correct = (logits > 0) == (pairs.label == 1)
        assert row.accuracy == pytest.approx(np.average(correct, weights=weight), abs=1e-9)


def test_differences_of_models_are_paired():
    """Two models that share their errors differ by far less than their own intervals are wide."""
    rng = np.random.default_rng(0)
    pairs, logits = scored_faces(rng, 150)
    worse = logits + rng.normal(0, 0.4, len(pairs))
    got = paired_differences({"worse": worse, "good": logits}, pairs, resamples=300)
    row = got.iloc[0]
    own = intervals(bootstrap_faces(logits, pairs, 300))
    assert (row.better, row.other) == ("good", "worse") and row.real
    assert row.auc_high - row.auc_low < 0.5 * (own["auc_high"] - own["auc_low"])
    same = paired_differences({"a": logits, "b": logits.copy()}, pairs, resamples=100).iloc[0]
    assert same.auc == same.auc_low == same.auc_high == 0 and not same.real


@pytest.mark.slow
def test_intervals_hold_the_truth_95_times_of_100():
    rng = np.random.default_rng(0)
    truth_pairs, truth_logits = scored_faces(rng, 4000)
    truth = {
        "accuracy": ((truth_logits > 0) == (truth_pairs.label == 1)).mean(),
        "auc": roc_auc_score(truth_pairs.label, truth_logits),
    }
    hits = {"accuracy": [], "auc": []}
    for _ in range(1000):
        pairs, logits = scored_faces(rng, 100)
        got = intervals(bootstrap_faces(logits, pairs, 400, seed=int(rng.integers(1 << 30))))
        for metric, hit in hits.items():
            hit.append(got[f"{metric}_low"] <= truth[metric] <= got[f"{metric}_high"])
    for metric, hit in hits.items():
        assert abs(np.mean(hit) - 0.95) <= 0.02, (metric, np.mean(hit))
