import numpy as np
import pandas as pd

from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.errors import recurring_faces, shared_errors, suspect_labels


def test_shared_errors_are_wrong_for_every_model_the_surest_first():
    pairs = Pairs(np.array([0, 0, 1, 2]), np.array([3, 4, 3, 4]), np.array([1, 1, 1, 0], "int8"))
    answers = {"a": np.array([-9.0, -1, 2, 3]), "b": np.array([-0.3, -0.1, -5, 0.2])}
    got = shared_errors(answers, pairs)
    assert got.left.tolist() == [0, 2, 0] and got.right.tolist() == [3, 4, 4]
    assert got.confidence.is_monotonic_decreasing
    assert recurring_faces(got).to_dict() == {0: 2, 4: 2}
    assert len(shared_errors({"right": 2.0 * pairs.label - 1}, pairs)) == 0


def test_planted_wrong_labels_are_found():
    rng = np.random.default_rng(0)
    ages = rng.integers(1, 90, 1500)
    features = np.c_[ages + rng.normal(0, 3, 1500), ages**2 / 90, rng.normal(size=(1500, 3))]
    wrong = rng.choice(1500, 60, replace=False)
    labels = ages.copy()
    labels[wrong] = (ages[wrong] + 45) % 90
    got = suspect_labels(features, labels)
    found = np.isin(wrong, got.index).mean()
    assert found > 0.7 and np.isin(got.index, wrong).mean() > 0.9
    assert got.probability.is_monotonic_decreasing


def test_too_few_faces_have_no_suspects():
    got = suspect_labels(np.zeros((8, 2)), np.array([20, 21, 22, 23, 24, 25, 26, 70]))
    assert isinstance(got, pd.DataFrame) and len(got) == 0
