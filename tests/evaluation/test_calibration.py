import numpy as np
import pytest
from scipy.special import expit

from utkcmp.evaluation.calibration import (
    calibration_error,
    coverage_curve,
    cyclic_share,
    fit_temperature,
    random_triples,
    reliability,
)


def answers(n=50_000, sharpness=1.0, seed=0):
    """Logits that are calibrated where sharpness is 1, overconfident above."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, n)
    return logits * sharpness, (rng.random(n) < expit(logits)).astype("int8")


def test_calibrated_answers_are_as_often_right_as_they_say():
    table = reliability(*answers())
    assert table.pairs.sum() == 50_000 and table.confidence.between(0.5, 1).all()
    np.testing.assert_allclose(table.accuracy, table.confidence, atol=0.02)
    assert calibration_error(table) < 0.01


def test_the_temperature_mends_overconfidence_and_no_answer_changes():
    logits, label = answers(sharpness=4.0)
    assert calibration_error(reliability(logits, label)) > 0.1
    temperature = fit_temperature(logits, label)
    assert temperature == pytest.approx(4, rel=0.05)
    assert calibration_error(reliability(logits / temperature, label)) < 0.01


def test_answering_less_is_answering_better():
    curve = coverage_curve(*answers())
    assert curve.coverage.iloc[-1] == 1 and curve.coverage.is_monotonic_increasing
    logits, label = answers()
    assert curve.accuracy.iloc[-1] == pytest.approx(((logits > 0) == (label == 1)).mean())
    assert curve.accuracy.iloc[0] > curve.accuracy.iloc[-1] + 0.1
    assert curve.confidence.is_monotonic_decreasing


def test_an_order_has_no_circles_and_coins_have_a_quarter():
    rng = np.random.default_rng(0)
    triples = random_triples(np.arange(50), 4000)
    assert all(len(set(triple)) == 3 for triple in triples.tolist())
    scores = rng.normal(size=50)[triples]  # (T, 3)
    assert cyclic_share(scores > np.roll(scores, -1, axis=1)) == 0
    assert cyclic_share(rng.random((4000, 3)) < 0.5) == pytest.approx(0.25, abs=0.03)
