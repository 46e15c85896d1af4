"""The published estimator: asked like any other model, and left out where its weights are not."""

import numpy as np
import pytest

from utkcmp.evaluation import PEER, age_table, evaluate_pairs, load_peer
from utkcmp.models import predict_ages
from utkcmp.training.variants import frozen_features, transfer_model


def test_without_its_weights_there_is_no_peer(small_run):
    assert load_peer(small_run[1]) is None


def test_the_peer_answers_the_same_pairs_as_the_models(small_run, faceres):
    data = small_run[1]
    peer = load_peer(data)
    sample, every = evaluate_pairs(PEER, peer, data, "test", resamples=100)
    assert sample.row["model"] == PEER and sample.row["n_pairs"] == len(data.pairs("test"))
    assert every.row["swap_disagreement"] == 0 and np.isfinite(every.row["loss"])

    rows, val = data.rows("test"), data.rows("val")  # few, so that all validation faces count
    stated = np.zeros(len(data.ages))
    for some in (rows, val):
        stated[some] = predict_ages(peer.regressor, data.at(160).images, some)
    older = stated[sample.pairs.left] > stated[sample.pairs.right]
    assert np.array_equal(sample.logits > 0, older)
    wrong = np.abs(stated - data.ages.numpy())
    figures = age_table({PEER: peer, "no ages": None}, data)
    assert figures.index.tolist() == [PEER]
    assert figures["MAE"][PEER] == pytest.approx(wrong[rows].mean())
    assert peer.scale == pytest.approx(1.702 / (2 * (wrong[val] ** 2).mean()) ** 0.5)


def test_a_head_is_trained_on_its_frozen_features(small_run, faceres):
    data = small_run[1]
    peer = load_peer(data)
    model = transfer_model(peer.regressor, data.params)
    features = frozen_features(model, data)
    assert features.shape == (len(data.ages), 256)
    kept = zip(model.regressor.parameters(), peer.regressor.parameters(), strict=True)
    assert all((one == other).all() and not one.requires_grad for one, other in kept)
