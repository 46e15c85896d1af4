import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr
from scipy.stats import binomtest, norm
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score
from test_results import random_pairs

from utkcmp.data.pairs import AllPairs, Pairs
from utkcmp.evaluation.bootstrap import (
    bootstrap_faces,
    influences,
    intervals,
    paired_difference,
    paired_differences,
    part_accuracy,
    seed_difference,
    standard_errors,
)
from utkcmp.evaluation.metrics import pair_metrics


@pytest.mark.parametrize("ties", [False, True])
def test_the_bootstrap_weighs_pairs_by_how_often_both_faces_were_drawn(ties):
    pairs, logits = random_pairs(ties=ties)
    correct, moves = (logits > 0) == (pairs.label == 1), influences(logits, pairs.label)
    got = bootstrap_faces(moves, pairs, resamples=20, seed=3)
    faces, positions = np.unique(np.r_[pairs.left, pairs.right], return_inverse=True)
    left, right = np.split(positions, 2)
    rng = np.random.default_rng(3)
    share = np.full(len(faces), 1 / len(faces))
    drawn = rng.multinomial(len(faces), share, size=20)
    exact = []
    for row, counts in zip(got.itertuples(), drawn, strict=True):
        weight = counts[left] * counts[right]
        accuracy = np.average(correct, weights=weight)
        assert row.accuracy == pytest.approx(accuracy - correct.mean(), abs=1e-6)
        assert row.auc == pytest.approx(np.average(moves.auc, weights=weight), abs=1e-6)
        exact.append(roc_auc_score(pairs.label, logits, sample_weight=weight))
    exact = np.array(exact) - roc_auc_score(pairs.label, logits)
    assert np.corrcoef(got.auc, exact)[0, 1] > 0.98  # to first order


def test_influences_are_what_a_pair_changes():
    """Against the change of the figure when one pair gets a little more weight."""
    pairs, logits = random_pairs()
    correct = (logits > 0) == (pairs.label == 1)
    got, step = influences(logits, pairs.label), 1e-5
    assert got.mean().to_numpy() == pytest.approx([0, 0], abs=1e-12)
    for pair in range(5):
        weight = np.ones(len(logits))
        weight[pair] += step * len(logits)
        auc = roc_auc_score(pairs.label, logits, sample_weight=weight)
        assert got.auc[pair] == pytest.approx(
            (auc - roc_auc_score(pairs.label, logits)) / step, rel=2e-2, abs=2e-3
        )
        moved = (np.average(correct, weights=weight) - correct.mean()) / step
        assert got.accuracy[pair] == pytest.approx(moved, rel=2e-2, abs=2e-3)


def test_the_standard_error_sums_over_pairs_that_share_a_face():
    left, right = np.array([0, 0, 2, 4]), np.array([1, 2, 3, 5])
    values = np.array([0.3, -0.2, 0.4, -0.5])
    sides = [{0, 1}, {0, 2}, {2, 3}, {4, 5}]
    meets = [[bool(one & other) for one in sides] for other in sides]
    variance = (np.outer(values, values) * meets).sum() / 4**2
    variance = max(variance, (values**2).sum() / 4**2) * 6 / 4
    pairs = Pairs(left, right, np.ones(4, "int8"))
    got = standard_errors(pd.DataFrame({"x": values}), pairs)
    assert got.x.error == pytest.approx(np.sqrt(variance))
    sums = np.array([0.1, 0.3, 0.2, 0.4, -0.5, -0.5])  # of each face's pairs
    assert got.x.faces == pytest.approx((sums**2).sum() ** 2 / (sums**4).sum())


def test_resamples_are_drawn_together_to_the_standard_error():
    pairs, logits = random_pairs()
    got = intervals(logits, pairs, resamples=400)
    error, faces = standard_errors(influences(logits, pairs.label), pairs).auc
    width = 2 * student.ppf(0.975, faces - 1)
    assert (got["auc_high"] - got["auc_low"]) / error == pytest.approx(width, rel=0.1)
    drawn = bootstrap_faces(influences(logits, pairs.label), pairs, resamples=400).auc
    assert drawn.std() > error


def test_no_error_in_a_few_pairs_is_no_proof():
    pairs = Pairs(np.arange(0, 20, 2), np.arange(1, 20, 2), np.tile([0, 1], 5).astype("int8"))
    got = intervals(2.0 * pairs.label - 1, pairs, resamples=100)
    assert got["accuracy_high"] == got["auc_high"] == 1
    assert got["accuracy_low"] == pytest.approx(binomtest(10, 10).proportion_ci().low)


def test_intervals_over_faces_are_wider_than_over_independent_pairs():
    """A per-face error is shared by all of a face's pairs; an interval over pairs would hide it."""
    rng = np.random.default_rng(0)
    left, right = np.triu_indices(40, 1)
    ages, seen = rng.normal(size=40), rng.normal(size=40)
    seen += ages
    pairs = Pairs(left, right, (ages[left] > ages[right]).astype("int8"))
    logits = seen[left] - seen[right]
    got = intervals(logits, pairs, resamples=500)
    accuracy = ((logits > 0) == (pairs.label == 1)).mean()
    naive = 2 * 1.96 * np.sqrt(accuracy * (1 - accuracy) / len(left))
    assert got["accuracy_high"] - got["accuracy_low"] > 1.5 * naive


def scored_faces(rng, n_faces, error=10.0):
    """Ages, and what a model makes of them: all pairs and their logits."""
    ages = rng.integers(1, 90, n_faces)
    scores = ages + rng.normal(0, error, n_faces)
    pairs = AllPairs(ages)[:]
    return pairs, 0.1 * (scores[pairs.left] - scores[pairs.right])


def test_differences_of_models_are_paired():
    """Two models that share their errors differ by far less than their own intervals are wide."""
    rng = np.random.default_rng(0)
    pairs, logits = scored_faces(rng, 150)
    worse = logits + rng.normal(0, 0.4, len(pairs))
    got = paired_differences({"worse": worse, "good": logits}, pairs, resamples=300)
    row = got.iloc[0]
    own = intervals(logits, pairs, 300)
    assert (row.better, row.other) == ("good", "worse") and row.clear
    assert row.auc_high - row.auc_low < 0.5 * (own["auc_high"] - own["auc_low"])
    same = paired_differences({"a": logits, "b": logits.copy()}, pairs, resamples=100).iloc[0]
    assert same.auc == same.auc_low == same.auc_high == 0 and not same.clear


def truth_of_scored_faces(error=10.0):
    """What ``scored_faces`` has in the limit of many faces, over all age gaps of a pair."""
    gap, ways = np.arange(1, 89), 89.0 - np.arange(1, 89)  # ages 1 to 89, each as often
    share = ways / ways.sum()
    both = np.outer(share, share)  # of an older-left and an older-right pair
    ranked = ndtr(np.add.outer(gap, gap) / (2 * error))  # the difference of four errors
    return {"accuracy": share @ ndtr(gap / (2**0.5 * error)), "auc": (both * ranked).sum()}


@pytest.mark.slow
@pytest.mark.parametrize(("faces", "chosen"), [(100, None), (400, 1000)], ids=["all", "sample"])
def test_intervals_hold_the_truth_95_times_of_100(faces, chosen):
    """All pairs of few faces, where faces matter most, and few pairs of many, where pairs do."""
    rng, truth = np.random.default_rng(0), truth_of_scored_faces()
    hits = {"accuracy": [], "auc": []}
    for _ in range(1000):
        pairs, logits = scored_faces(rng, faces)
        if chosen:
            some = rng.choice(len(pairs), chosen, replace=False)
            pairs, logits = pairs[some], logits[some]
        got = intervals(logits, pairs, 200, seed=int(rng.integers(1 << 30)))
        for metric, hit in hits.items():
            hit.append(got[f"{metric}_low"] <= truth[metric] <= got[f"{metric}_high"])
    for metric, hit in hits.items():
        assert abs(np.mean(hit) - 0.95) <= 0.02, (metric, np.mean(hit))


def test_differences_are_corrected_for_their_number_as_by_holm():
    rng = np.random.default_rng(0)
    pairs, logits = scored_faces(rng, 60)
    answers = {size: logits + rng.normal(0, size, len(pairs)) for size in (0.2, 0.5, 0.9)}
    got = paired_differences(answers, pairs, resamples=100).sort_values("p")
    alone = [
        paired_difference(answers[a], answers[b], pairs, 100)["p"]
        for a, b in zip(got.better, got.other, strict=True)
    ]
    expect = np.maximum.accumulate(np.sort(alone) * [3, 2, 1]).clip(max=1)
    assert got.p.to_numpy() == pytest.approx(expect) and got.p.nunique() > 1


def test_an_interval_over_seeds_is_wider_than_over_faces():
    """One seed: the paired interval over faces. Several: what seeds scatter comes on top."""
    rng = np.random.default_rng(0)
    pairs, logits = scored_faces(rng, 150)
    worse = np.stack([logits + rng.normal(0, size, len(pairs)) for size in (0.2, 0.8, 1.4)])
    good = np.stack([logits] * 3)
    one, three = seed_difference(good[:1], worse[:1], pairs), seed_difference(good, worse, pairs)
    assert 0 < one["low"] < one["difference"] < one["high"]
    gains = [
        pair_metrics(logits, pairs.label)["auc"] - pair_metrics(w, pairs.label)["auc"]
        for w in worse
    ]
    assert three["difference"] == pytest.approx(np.mean(gains))
    half = (three["high"] - three["low"]) / 2
    assert half > norm.ppf(0.975) * np.std(gains, ddof=1) / 3**0.5  # however many degrees
    same = seed_difference(good, good, pairs)
    assert same == {"difference": 0, "low": 0, "high": 0, "p": 1}
    assert one["p"] < 0.05 and three["p"] > one["p"]


def test_seed_intervals_hold_the_truth_as_often_as_they_say():
    """Two equal ways of training, drawn with other faces and other seeds each time."""
    rng, held = np.random.default_rng(1), []
    for _ in range(60):
        ages = rng.integers(1, 90, 60)
        pairs = AllPairs(ages)[:]

        def trained(ages=ages, pairs=pairs):
            scores = ages + rng.normal(0, rng.uniform(5, 25), len(ages))
            return 0.1 * (scores[pairs.left] - scores[pairs.right])

        one, other = (np.stack([trained() for _ in range(3)]) for _ in range(2))
        got = seed_difference(one, other, pairs)
        held.append(got["low"] <= 0 <= got["high"])
    assert np.mean(held) > 0.85


def test_parts_have_intervals_and_no_pair_is_lost():
    pairs, logits = random_pairs()
    part = np.where(np.arange(len(pairs)) % 3 == 0, "a", "b")
    correct = (logits > 0) == (pairs.label == 1)
    got = part_accuracy(correct, pairs, part)
    assert got.pairs.sum() == len(pairs)
    assert got.accuracy["a"] == pytest.approx(correct[part == "a"].mean())
    assert ((got.accuracy_low < got.accuracy) & (got.accuracy < got.accuracy_high)).all()
    ordered = pd.Categorical(part, categories=["b", "a"])
    assert list(part_accuracy(correct, pairs, ordered).index) == ["b", "a"]
    assert part_accuracy(np.ones(len(pairs), bool), pairs, part).accuracy_low.lt(1).all()
