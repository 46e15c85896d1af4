import numpy as np
import pytest
from scipy.special import expit

from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.calibration import (
    calibration_error,
    coverage_curve,
    fit_temperature,
    reliability,
)


def answers(n=50_000, sharpness=1.0, seed=0):
    """Logits that are calibrated where sharpness is 1, overconfident above."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, n)
    return logits * sharpness, (rng.random(n) < expit(logits)).astype("int8")


def table_of(logits, label):
    left = np.arange(0, 2 * len(logits), 2)  # pairs that share no face
    return reliability(logits, Pairs(left, left + 1, label))


def test_calibrated_answers_are_as_often_right_as_they_say():
    table = table_of(*answers())
    assert table.pairs.sum() == 50_000 and table.confidence.between(0.5, 1).all()
    np.testing.assert_allclose(table.accuracy, table.confidence, atol=0.02)
    assert (table.accuracy_low < table.accuracy).all()
    assert calibration_error(table) < 0.01


def test_the_temperature_mends_overconfidence_and_no_answer_changes():
    logits, label = answers(sharpness=4.0)
    assert calibration_error(table_of(logits, label)) > 0.1
    temperature = fit_temperature(logits, label)
    assert temperature == pytest.approx(4, rel=0.05)
    assert calibration_error(table_of(logits / temperature, label)) < 0.01


def test_answering_less_is_answering_better():
    curve = coverage_curve(*answers())
    assert curve.coverage.iloc[-1] == 1 and curve.coverage.is_monotonic_increasing
    logits, label = answers()
    assert curve.accuracy.iloc[-1] == pytest.approx(((logits > 0) == (label == 1)).mean())
    assert curve.accuracy.iloc[0] > curve.accuracy.iloc[-1] + 0.1
    assert curve.confidence.is_monotonic_decreasing
