"""Searches by Ray on this machine: what they draw, keep, read again and say of failures."""

import pandas as pd
import pytest
from conftest import ONE_WORKER

from utkcmp.params import Params
from utkcmp.tuning.cluster import ray_session
from utkcmp.tuning.tuner import (
    COLUMNS,
    SEARCHED,
    beside_trials,
    compare_heads,
    head_differences,
    read_epochs,
    read_trials,
    retrain_best,
    search,
    write_best,
)

SMALL = dict(run="small", n_faces=120, image_size=16, data_size=200, eval_pairs=60, batch_size=16)
SMALL |= dict(num_samples=2, tune_data_size=60, max_num_epochs=2, regressor_epochs=1, head_seeds=2)
SMALL |= ONE_WORKER
NARROW = {"resnet_type": ["resnet18"], "batch_size": [16, 32], "hidden_layers": [[], [8]]}


def test_searches_of_one_session(small_run):
    """The same trials again, failures with reasons from another searcher, heads, the best."""
    run, _ = small_run
    p = Params(**SMALL, search_space=NARROW)
    model = "SiameseResNetAge"
    with ray_session(p):
        trials = search(model, run, p)
        heads = compare_heads(model, run, p)
        kept = read_trials(run.tuning(model))
        pd.testing.assert_frame_equal(search(model, run, p), kept)  # read, not run
        run.tuning(model).unlink()
        again = search(model, run, p)
        diverging = NARROW | {"lr": [1e29, 1e30], "hidden_layers": [[8]]}
        changed = {"search_space": diverging, "searcher": "bayesian"}
        failed = search(model, run, p.model_copy(update=changed))

    assert list(trials.columns) == COLUMNS and trials.loss.is_monotonic_increasing
    drawn = [set(map(str, table[SEARCHED].to_numpy().tolist())) for table in (trials, again)]
    assert drawn[0] == drawn[1]

    assert all(failed.status.str.match(r"failed: .*(loss is (nan|inf)|diverged|NaN)")), (
        failed.status
    )
    assert failed.auc.isna().all() and not run.tuning(model).with_suffix(".yaml").exists()
    assert retrain_best(model, run, p) is None
    with pytest.raises(ValueError, match="no trial of SiameseResNetAge has finished"):
        compare_heads(model, run, p)

    assert len(heads) == 4 and set(heads.status) == {"finished"}
    assert heads.groupby(heads.hidden_layers.astype(str)).loss.nunique().eq(2).all()
    assert len(head_differences(heads)) == 1

    write_best(run, model, trials, p)
    fitted = retrain_best(model, run, p)
    assert len(fitted.history) == p.best_epochs
    assert run.model(f"tuned_{model}").joinpath("config.json").exists()
    best = trials.iloc[0]
    beside = beside_trials({model: best}, {model: fitted}, run, p).loc[model]
    assert beside.trial == best.auc and beside.retrained == fitted.best.val_auc
    assert beside["its pairs"] == best["iter"] * p.tune_data_size
    steps = p.steps_per_epoch or p.data_size
    assert beside["pairs"] == p.best_epochs * min(p.data_size, steps * best.batch_size)
    assert len(read_epochs(run, model)) == 0  # of the last search, in which all failed
