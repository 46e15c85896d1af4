import copy

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.metrics import pair_metrics
from utkcmp.evaluation.results import evaluate_pairs, mistakes, results_table
from utkcmp.models.inference import pair_logits
from utkcmp.models.networks import build_model
from utkcmp.report.course_project import reported_results, reported_tuning
from utkcmp.run import RESULT_COLUMNS


def random_pairs(n_faces=40, n_pairs=300, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, n_faces, (2, n_pairs))
    label = rng.integers(0, 2, n_pairs).astype("int8")
    logits = rng.normal(size=n_pairs) + label
    return Pairs(left, right, label), np.round(logits, 1) if ties else logits


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn(seed, ties):
    pairs, logits = random_pairs(seed=seed, ties=ties)
    got = pair_metrics(logits, pairs.label)
    assert got["loss"] == pytest.approx(log_loss(pairs.label, 1 / (1 + np.exp(-logits))), abs=1e-9)
    assert got["accuracy"] == accuracy_score(pairs.label, logits > 0)
    assert got["auc"] == pytest.approx(roc_auc_score(pairs.label, logits), abs=1e-12)


@pytest.mark.parametrize(("logits", "label"), [([1.0, 2.0], [1, 1]), ([np.nan, 1.0], [1, 0])])
def test_an_auc_that_means_nothing_is_no_number(logits, label):
    assert np.isnan(pair_metrics(np.array(logits), np.array(label))["auc"])


def test_both_protocols_are_measured(small_run, tiny):
    _, data = small_run
    one, every = evaluate_pairs("m", build_model("AgeRanker"), data, "test", resamples=100)
    assert list(results_table([one, every]).columns) == RESULT_COLUMNS
    assert (one.row["protocol"], every.row["protocol"]) == ("sample", "all")
    ages = data.ages.numpy()[data.rows("test")]
    expect = sum(a != b for i, a in enumerate(ages) for b in ages[:i])
    assert every.row["n_pairs"] == expect
    assert one.row["swap_disagreement"] == every.row["swap_disagreement"] == 0


def test_all_pairs_agree_with_scoring_each_pair(small_run, tiny):
    _, data = small_run
    model = build_model("SiameseResNet", hidden_layers=[8]).eval()
    every = evaluate_pairs("m", model, data, "test", resamples=100)[1]
    expect = pair_logits(model, data.images, every.pairs)
    np.testing.assert_allclose(every.logits, expect, atol=1e-4)


def test_the_area_of_all_pairs_is_that_of_brute_force_on_300_faces():
    """Every older-left answer against every older-right one, a tie counting half."""
    rng = np.random.default_rng(0)
    ages = rng.integers(1, 90, 300)
    left, right = np.triu_indices(300, 1)
    left, right = left[ages[left] != ages[right]], right[ages[left] != ages[right]]
    swap = rng.random(len(left)) < 0.5
    left, right = np.where(swap, right, left), np.where(swap, left, right)
    label = (ages[left] > ages[right]).astype("int8")
    scores = np.round(ages + rng.normal(0, 15, 300))  # whole years, so that answers tie
    logits = (scores[left] - scores[right]) / 10
    positive, negative = logits[label == 1], logits[label == 0]
    wins = sum((one > negative).sum() + (one == negative).sum() / 2 for one in positive)
    expect = wins / (len(positive) * len(negative))
    assert pair_metrics(logits, label)["auc"] == pytest.approx(expect, abs=1e-9)


def test_a_model_of_both_faces_is_measured_by_the_seed_protocol_only(small_run, tiny):
    _, data = small_run
    got = evaluate_pairs("m", build_model("ResNetClassifier"), data, "val", resamples=100)
    assert [one.row["protocol"] for one in got] == ["sample"]
    model, pairs = build_model("ResNetClassifier"), data.pairs("val")
    asked, swapped = (pair_logits(model, data.images, one) for one in (pairs, pairs.mirrored()))
    row = evaluate_pairs("m", model, data, "val", resamples=100)[0].row
    assert row["swap_disagreement"] == np.mean(np.sign(asked) == np.sign(swapped))


def test_mistakes_are_wrong_and_sorted_by_confidence(small_run, tiny):
    _, data = small_run
    one = evaluate_pairs("m", build_model("AgeRanker"), data, "test", resamples=100)[0]
    got = mistakes(one, data, n=5)
    older = np.where(got.left_age > got.right_age, "left", "right")
    assert (got.answer != older).all()
    assert got.confidence.is_monotonic_decreasing and got.confidence.between(0.5, 1).all()
    assert (data.faces.file[got.left].to_numpy() == got.left_file).all()

    hidden = copy.copy(data)
    hidden.params = data.params.model_copy(update={"show_faces": False})
    got = mistakes(one, hidden, n=5)
    assert not got.isin(set(data.faces.file)).any(axis=None)
    for side in ("left", "right"):  # the data's owner finds the file by its digest
        found = [data.faces.sha256.str.startswith(digest) for digest in got[f"{side}_file"]]
        assert all(hits[row] for hits, row in zip(found, got[side], strict=True))


def test_reported_figures_are_complete():
    assert len(reported_tuning()) == 29
    models = {"SiameseResNet", "ResNetClassifier", "SiameseResNetAge"}
    assert set(reported_results().model) == models
