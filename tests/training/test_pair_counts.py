"""Numbers of training pairs: what is trained, that it is trained once, and what the gains are."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from utkcmp.models.inference import apply_rows
from utkcmp.models.networks import build_model
from utkcmp.run import Run
from utkcmp.training import pair_counts as paircounts
from utkcmp.training.pair_counts import fit_pair_counts, pair_count_gains
from utkcmp.training.variants import fit_variant, frozen_features, transfer_model

pytestmark = pytest.mark.usefixtures("tiny")
COUNTS = {"pair_counts": [40, 100_000], "head_seeds": 2, "steps_per_epoch": 4}
COUNTS |= {"batch_size": 512}


def changed(data, **options):
    """The same faces under other parameters."""
    other = copy.copy(data)
    other.params = data.params.model_copy(update={"device": "cpu"} | options)
    return other


@pytest.fixture
def regressor():
    return regressor_of(seed=0)


def regressor_of(seed):
    torch.manual_seed(seed)
    return build_model("ResNetAgeRegressor").eval()


def ask(run, data, regressor, **options):
    data = changed(data, **COUNTS | options)
    features = frozen_features(transfer_model(regressor, data.params), data)
    return fit_pair_counts(run, data, regressor, features)


@pytest.fixture
def fits(monkeypatch):
    """What ``fit`` was asked for, call by call."""
    asked, fit = [], paircounts.fit

    def noted(model, data, settings, **options):
        asked.append(vars(settings) | options)
        return fit(model, data, settings, **options)

    monkeypatch.setattr(paircounts, "fit", noted)
    return asked


def test_every_training_makes_as_many_steps(small_run, regressor, tmp_path, fits):
    run, data = Run(tmp_path), small_run[1]
    got = ask(run, data, regressor)
    ages = data.ages.numpy()[data.rows("train")]
    possible = int(np.triu(ages[:, None] != ages[None, :]).sum())  # counted one by one
    assert got.pairs.tolist() == ["40", str(possible), "all"] * 2
    assert got.seed.tolist() == [42] * 3 + [43] * 3
    assert got.val_auc.between(0, 1).all() and got.val_auc.nunique() > 1
    for options in fits:
        steps = possible // options["batch_size"]  # more than the 4 that were asked for
        assert (options["steps_per_epoch"], options["epochs"]) == (steps, paircounts.EPOCHS)
        assert len(options["train"]) >= steps * options["batch_size"]
    short, longest, every = (options["train"] for options in fits[:3])
    assert len(set(zip(short.left, short.right, strict=True))) == 40
    assert len(longest) == possible and set(every) == set(data.rows("train"))
    other = fits[3]["train"]
    assert set(zip(other.left, other.right, strict=True)) != set(
        zip(short.left, short.right, strict=True)
    )


def test_a_finished_table_is_read_and_an_interrupted_one_continued(
    small_run, regressor, tmp_path, fits
):
    run, data = Run(tmp_path), small_run[1]
    first = ask(run, data, regressor)
    assert not run.model("transfer_pairs").exists() and len(fits) == 6
    pd.testing.assert_frame_equal(ask(run, data, regressor), first)
    assert len(fits) == 6
    first[:4].to_csv(run.repeats("transfer_pairs"), index=False)
    pd.testing.assert_frame_equal(ask(run, data, regressor), first)
    assert len(fits) == 8
    ask(run, data, regressor, lr=0.1)
    assert len(fits) == 14
    ask(run, data, regressor_of(seed=1), lr=0.1)
    assert len(fits) == 20


def test_gains_are_paired_by_seed():
    rows = [("50", 1, 0.7), ("all", 1, 0.8), ("50", 2, 0.5), ("all", 2, 0.62)]
    table = pd.DataFrame(rows, columns=paircounts.COLUMNS)
    row = pair_count_gains(table).iloc[0]
    assert (row.pairs, row.fewest, row.seeds) == ("all", "50", 2)
    assert (row.auc, row.auc_fewest, row.difference) == pytest.approx((0.71, 0.6, 0.11))
    half = 12.706 * 0.01  # t of one degree of freedom; the two gains lie 0.01 from their mean
    assert (row.low, row.high) == pytest.approx((0.11 - half, 0.11 + half), abs=1e-5)
    assert pair_count_gains(table[:2]).low.isna().all()


def test_known_features_train_the_same_head(small_run, regressor, tmp_path):
    run, data = Run(tmp_path), changed(small_run[1], epochs=1, mirror=True)
    model = transfer_model(regressor, data.params)
    features = frozen_features(model, data)
    expect = apply_rows(model.embed, data.images, np.arange(len(data.images)))
    np.testing.assert_allclose(features, expect, atol=1e-5)
    known = fit_variant("known", run, data, model, features=features)
    alone = fit_variant("alone", run, data, transfer_model(regressor, data.params))
    assert known.best.val_auc == pytest.approx(alone.best.val_auc, abs=1e-4)
    model = transfer_model(regressor, data.params)
    again = fit_variant("alone", run, data, model, features=features)
    assert again.reused  # features are no setting: a finished model stays one
