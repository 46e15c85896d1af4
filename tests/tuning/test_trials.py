import json
import math

import numpy as np
import pandas as pd
import pytest
from optuna.samplers import TPESampler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from utkcmp.params import Params
from utkcmp.tuning import trials
from utkcmp.tuning.trials import _left_whole, _tables, _tune_config, gather_data
from utkcmp.tuning.tuner import CHOICES, search_space


class Result:
    """What Ray Tune returns of a trial."""

    def __init__(self, losses, error=None, epochs=None, failure=None):
        self.config = {"lr": 0.1, "batch_size": 4, "hidden_layers": "[]"}
        self.metrics, self.path, self.error = {"trial_id": "x"}, "/tmp/x", error
        rows = {"epoch": epochs or list(range(1, len(losses) + 1)), "loss": losses}
        rows |= {"accuracy": losses, "auc": losses, "time_total_s": losses}
        rows |= {"timestamp": [100 + number for number in range(len(losses))]}
        self.metrics_dataframe = pd.DataFrame(rows) if losses else None
        if failure:
            self.metrics_dataframe["failure"] = [None] * (len(losses) - 1) + [failure]


def test_trials_become_rows_with_a_status():
    results = [Result([0.6, 0.5, 0.55]), Result([0.7]), Result([], RuntimeError("a\nno memory"))]
    trials, epochs = _tables(results, max_epochs=3)
    assert list(trials.status) == ["finished", "stopped early", "failed: no memory"]
    assert trials.loss[0] == 0.5 and list(trials["iter"][:2]) == [3, 1]
    assert len(epochs) == 4 and epochs.seconds.min() == 0


def test_a_failure_of_its_own_keeps_the_epochs_before_it():
    trials, epochs = _tables(
        [Result([0.6, math.inf], epochs=[1, 0], failure="the loss is nan")], max_epochs=3
    )
    assert trials.status[0] == "failed: the loss is nan"
    assert trials.loss[0] == 0.6 and trials["iter"][0] == 1 and len(epochs) == 1


def test_a_trial_that_was_started_again_counts_each_epoch_once():
    trials, _ = _tables([Result([0.6, 0.5, 0.6, 0.5, 0.4], epochs=[1, 2, 1, 2, 3])], max_epochs=3)
    assert trials["iter"][0] == 3 and trials.status[0] == "finished" and trials.loss[0] == 0.4


def test_no_test_face_is_sent_to_a_trial(small_run):
    run, data = small_run
    p = Params(run="small", n_faces=120, eval_pairs=60, tune_data_size=100)
    sent = gather_data("SiameseResNet", run, p, ["resnet18"])
    used = np.concatenate([data.rows("train"), data.rows("val")])
    assert len(sent.images) <= len(used) and sent.frozen == {}
    original = data.images.numpy()
    known = {image.tobytes() for image in original[used]}
    assert all(image.tobytes() in known for image in sent.images)
    own = data.pairs("val")
    assert np.array_equal(sent.images[sent.val.left], original[own.left])
    assert np.array_equal(sent.ages[sent.val.right], data.ages.numpy()[own.right])


def test_a_search_goes_on_only_from_records_that_are_whole(tmp_path):
    assert not _left_whole(tmp_path / "none")
    (tmp_path / "tuner.pkl").write_bytes(b"")
    assert not _left_whole(tmp_path)  # Ray writes the search's state seconds later
    state = tmp_path / "experiment_state-2026-11-24_18-00-00.json"
    state.write_text('{"trial_data": [')
    assert not _left_whole(tmp_path)
    state.write_text('{"trial_data": []}')
    assert _left_whole(tmp_path)


def test_the_searcher_is_the_one_that_was_asked_for():
    random, learning = (
        _tune_config(Params(searcher=name), search_space(), count=10, asha=True).search_alg
        for name in ("random", "bayesian")
    )
    assert isinstance(random, BasicVariantGenerator)
    assert isinstance(learning, OptunaSearch) and isinstance(learning._sampler, TPESampler)


def test_every_choice_of_hidden_layers_is_drawn():
    space = search_space()
    random, learning = (
        _tune_config(Params(searcher=name), space, 10, True).search_alg
        for name in ("random", "bayesian")
    )
    learning.set_search_properties("loss", "min", space)
    suggested = [learning.suggest(str(number)) for number in range(6)]
    assert suggested[0]["lr"] != suggested[5]["lr"]  # the free draws begin anew
    for points in (random._points_to_evaluate, suggested[:5]):
        first = [json.loads(point["hidden_layers"]) for point in points]
        assert first == CHOICES["hidden_layers"] and first[0] == []
        assert all(point.keys() == space.keys() for point in points)


@pytest.mark.parametrize("name", ["random", "bayesian"])
def test_a_search_of_the_same_seed_draws_the_same_trials(name):
    from ray import tune

    def drawn(seed):
        space, p = search_space(), Params(searcher=name, seed=seed)
        algorithm = _tune_config(p, space, 8, True).search_alg
        if name == "bayesian":
            algorithm.set_search_properties("loss", "min", space)
            return [algorithm.suggest(str(number)) for number in range(8)]
        nothing = tune.Experiment("x", lambda config: None, config=space, num_samples=8)
        algorithm.add_configurations([nothing])
        return [algorithm.next_trial().config for _ in range(8)]

    assert drawn(1) == drawn(1) and drawn(1)[:5] != drawn(2)[:5] and drawn(1)[5:] != drawn(2)[5:]


def test_a_trial_starts_from_the_weights_of_its_network(monkeypatch):
    started = []

    def build(model, **options):
        started.append((options["backbone"], options["weights"]))
        raise InterruptedError

    monkeypatch.setattr(trials, "build_model", build)
    params = Params(backbone="faceres", weights="faceres").model_dump()
    config = {"hidden_layers": "[]", "use_dropout": False, "dropout_prob": 0.3}
    config |= {"lr": 1e-3, "batch_size": 32, "weight_decay": 0.0}
    for backbone in ("faceres", "resnet18"):
        with pytest.raises(InterruptedError):
            trials.run_trial(config | {"resnet_type": backbone}, None, "SiameseResNet", params, "")
    assert started == [("faceres", "faceres"), ("resnet18", None)]
