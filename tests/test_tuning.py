import pandas as pd
import pytest

from utkcmp.evaluation import reported_tuning
from utkcmp.params import Params, check, load_file
from utkcmp.run import Run
from utkcmp.tuning import (
    CHOICES,
    COLUMNS,
    RANGES,
    _table,
    describe_space,
    search_space,
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
    shown = describe_space({"batch_size": [64]})
    assert shown.loc["batch_size (choice)", "this run"] == "[64]"


def test_an_unknown_parameter_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'momentum': expected one of lr, weight_decay"):
        search_space({"momentum": [0.1, 0.9]})


class Result:
    def __init__(self, losses, error=None):
        self.config = {"lr": 0.1, "batch_size": 4, "hidden_layers": []}
        self.metrics, self.path, self.error = {"trial_id": "x"}, "/tmp/x", error
        history = {"loss": losses, "accuracy": losses, "auc": losses, "time_total_s": losses}
        self.metrics_dataframe = pd.DataFrame(history) if losses else None


def test_trials_become_rows_with_a_status():
    results = [Result([0.6, 0.5, 0.55]), Result([0.7]), Result([], RuntimeError("a\nno memory"))]
    got = _table(results, max_epochs=3)
    assert list(got.columns) == COLUMNS
    assert list(got.status) == ["finished", "stopped early", "failed: no memory"]
    assert got.loss[0] == 0.5 and list(got["iter"][:2]) == [3, 1]


def test_trials_use_the_processor_unless_they_are_given_a_gpu():
    from utkcmp.tuning import _device

    assert _device(Params(gpus_per_trial=0)) == "cpu"
    assert _device(Params(gpus_per_trial=0.5)) == "cuda"


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
    path = write_best(Run(tmp_path), "SiameseResNet", trials)
    got = check(load_file(path))
    assert (got.batch_size, got.backbone, got.hidden_layers) == (64, "resnet50", [])
    assert (got.lr, got.use_dropout, got.pairing) == (1e-2, False, "list")
    assert write_best(Run(tmp_path), "SiameseResNet", trials[:1]) is None and not path.exists()
