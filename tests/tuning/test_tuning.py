import numpy as np
import pandas as pd
import pytest

from utkcmp.files import write_csv
from utkcmp.params import Params, check, load_file
from utkcmp.plots.tuning import head_intervals, trials_over_time
from utkcmp.report.course_project import reported_tuning
from utkcmp.report.sentences import (
    describe_heads,
    describe_importance,
    describe_rates,
    describe_retrained,
)
from utkcmp.run import Run
from utkcmp.tuning.tuner import (
    CHOICES,
    RANGES,
    compare_all_heads,
    head_differences,
    parameter_importance,
    read_epochs,
    read_trials,
    search_space,
    space_table,
    write_best,
)


def test_the_space_is_the_course_projects():
    space = search_space()
    assert (space["lr"].lower, space["lr"].upper) == (1e-4, 1e-1)
    assert (space["weight_decay"].lower, space["weight_decay"].upper) == (1e-6, 1e-2)
    assert (space["dropout_prob"].lower, space["dropout_prob"].upper) == (0.1, 0.7)
    assert space["batch_size"].categories == [4, 8, 16, 32, 64, 128]
    assert space["resnet_type"].categories == ["resnet18", "resnet50"]
    assert len(space["hidden_layers"].categories) == 5


def test_every_reported_trial_lies_in_the_space():
    reported = reported_tuning()
    for name, (low, high) in RANGES.items():
        assert reported[name].between(low, high).all(), name
    for name in ("batch_size", "resnet_type", "use_dropout"):
        assert set(reported[name]) <= set(CHOICES[name])
    assert set(reported.hidden_layers) <= {str(layers) for layers in CHOICES["hidden_layers"]}


def test_the_space_can_be_narrowed():
    space = search_space({"lr": [1e-3, 1e-2], "batch_size": [64]})
    assert (space["lr"].lower, space["lr"].upper) == (1e-3, 1e-2)
    assert space["batch_size"].categories == [64]
    assert CHOICES["batch_size"] == [4, 8, 16, 32, 64, 128]
    shown = space_table({"batch_size": [64]})
    assert shown.loc["batch_size (choice)", "this run"] == "[64]"


def test_the_best_trial_becomes_a_parameter_file(tmp_path):
    trials = pd.DataFrame(
        {
            "batch_size": [32, 64],
            "dropout_prob": [0.2, 0.5],
            "hidden_layers": [[64, 32, 16], []],
            "lr": [1e-3, 1e-2],
            "resnet_type": ["resnet18", "resnet50"],
            "use_dropout": [True, False],
            "weight_decay": [1e-5, 1e-4],
            "loss": [float("nan"), 0.4],
            "auc": [float("nan"), 0.9],
        }
    )
    run, params = Run(tmp_path), Params(backbone="faceres", weights="faceres")
    path = write_best(run, "SiameseResNet", trials, params)
    got = check(params.model_dump() | load_file(path))
    assert got.weights is None  # which are of another network than the best trial's
    assert (got.batch_size, got.backbone, got.hidden_layers) == (64, "resnet50", [])
    assert (got.lr, got.use_dropout, got.pairing) == (1e-2, False, "list")
    assert write_best(run, "SiameseResNet", trials[:1], params) is None and not path.exists()


def heads_table(gains, model="m"):
    """AUC 0.9 without hidden layers, 0.9 + gain with them, one gain a seed."""
    rows = [
        {
            "model": model,
            "seed": seed,
            "hidden_layers": layers,
            "auc": 0.9 + (gain if layers else 0),
        }
        for seed, gain in enumerate(gains)
        for layers in ([], [8, 4])
    ]
    return pd.DataFrame(rows)


def test_differences_of_heads_are_paired_by_seed():
    gains = np.array([0.01, 0.02, 0.03])
    got = head_differences(heads_table(gains)).iloc[0]
    half = 4.302653 * gains.std(ddof=1) / 3**0.5  # Student's t of 2 degrees of freedom
    assert got.difference == pytest.approx(0.02) and got.low == pytest.approx(0.02 - half, abs=1e-6)
    assert (got.seeds, got.hidden_layers) == (3, "[8, 4]")


def test_only_what_matters_is_important():
    rng = np.random.default_rng(0)
    n = 40
    trials = pd.DataFrame(
        {
            "model": "m",
            "lr": 10 ** rng.uniform(-4, -1, n),
            "weight_decay": 10 ** rng.uniform(-6, -2, n),
            "batch_size": rng.choice([4, 64], n),
            "hidden_layers": rng.choice(["[]", "[64, 32, 16]"], n),
            "dropout_prob": rng.uniform(0.1, 0.7, n),
            "use_dropout": rng.choice([True, False], n),
            "resnet_type": rng.choice(["resnet18", "resnet50"], n),
        }
    )
    trials["auc"] = 0.9 - 0.1 * np.log10(trials.lr / 1e-4) / 3 + rng.normal(0, 0.005, n)
    small = {"shuffles": 20, "trees": 20}
    got = parameter_importance(trials, **small)
    assert list(got.index[got.importance > got.chance]) == ["lr"]
    assert "In our trials, `lr` stands out." in describe_importance(got, got)
    shuffled = parameter_importance(trials.assign(auc=rng.permutation(trials.auc)), **small)
    assert (shuffled.importance > shuffled.chance).sum() <= 1
    assert parameter_importance(trials[:4]).empty


def test_a_best_trial_that_does_not_hold_is_said_so():
    table = pd.DataFrame({"trial": [0.9, 0.8], "retrained": [0.91, 0.79]}, index=["a", "b"])
    table = table.assign(**{"pairs, trial": 100, "pairs, retrained": 100})
    assert "lower AUC than the trial for `b`, although" in describe_retrained(table)
    assert "just lucky" in describe_retrained(table)
    assert "Each retrained model reaches at least" in describe_retrained(table[:1])
    shorter = describe_retrained(table.assign(**{"pairs, retrained": 99}))
    assert "lower AUC than the trial for `b`, but fewer pairs were seen" in shorter
    assert "just lucky" not in shorter


def test_the_learning_rate_is_read_only_where_it_varies():
    reported = pd.DataFrame({"lr": [1e-3, 1e-2, 1e-1], "auc": [0.9, 0.8, 0.7]})
    said = describe_rates(reported.assign(auc=[0.6, 0.7, 0.8]), reported)
    assert "−1.00 in the 3 reported trials and +1.00 in our 3" in said
    assert "and undefined in our 2" in describe_rates(reported[:2].assign(lr=1e-3), reported)


def test_an_id_of_digits_stays_a_text(tmp_path):
    run, ids = Run(tmp_path), ["52254193", "1234e567"]
    trials = pd.DataFrame({"trial": ids, "status": "finished", "hidden_layers": "[]"})
    trials = trials.assign(loss=0.5, accuracy=0.7, auc=[0.7, 0.8])
    write_csv(trials, run.tuning("m"))
    write_csv(trials.assign(epoch=1, seconds=2.0), run.tuning("m_epochs"))
    by_epoch, table = read_epochs(run, "m"), read_trials(run.tuning("m"))
    assert table.trial.tolist() == by_epoch.trial.tolist() == ids
    assert trials_over_time({"m": by_epoch}, {"m": table}).axes


def test_without_heads_there_is_nothing_to_compare(small_run):
    none = compare_all_heads(small_run[0], Params(run="small", tune_models=["SiameseResNet"]))
    differences = head_differences(none)
    assert none.empty and differences.empty and head_intervals(differences).axes
    assert "nothing to compare" in describe_heads(differences)
