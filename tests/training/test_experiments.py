"""Experiments: what differs between two arms, what they cost, and what is kept of them."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from utkcmp.report import beside_recipes
from utkcmp.run import Run
from utkcmp.training import experiments
from utkcmp.training.variants import fit_regressor, fit_variant

pytestmark = pytest.mark.usefixtures("tiny")
LADDER = {"ladder_faces": 64, "ladder_size": 16, "ladder_seeds": 2, "epochs": 1, "device": "cpu"}


@pytest.fixture
def asked(small_run, tmp_path):
    data = copy.copy(small_run[1])
    data.params = data.params.model_copy(update=LADDER | {"regressor_epochs": 1})
    return Run(tmp_path), data


def test_each_rung_differs_in_one_thing_and_costs_the_same(asked, monkeypatch):
    run, data = asked
    seen = {}
    monkeypatch.setattr(experiments, "compare_arms", lambda run, name, arms, budget: arms)
    arms = experiments.ladder(run, data)
    for name, other in [(name, arm.against) for name, arm in arms.items() if arm.against]:
        one, two = arms[name].changes, arms[other].changes
        skipped = ("train", "batch_size")
        seen[name] = {key for key in one if key not in skipped and one[key] != two[key]}
        kinds = [isinstance(arm.changes["train"], np.ndarray) for arm in (arms[name], arms[other])]
        seen[name] |= {"pairing"} if kinds[0] != kinds[1] else set()
        assert experiments._spent(arms[name])["faces"] == experiments._spent(arms[other])["faces"]
    assert seen["every pair of a batch"] == {"pairing"}
    assert seen["age-distribution loss"] == {"age_weight"}
    assert seen["moving average, mirror image"] == {"ema"}
    assert seen["larger faces (24 px)"] == set()
    assert arms["larger faces (24 px)"].data.images.shape[-1] == 24


def test_equal_compute_means_twice_the_pairs(asked):
    run, data = asked
    got = experiments.architectures(run, data).set_index("arm")
    assert got.faces.tolist() == [64, 64, 128] and got.passes.tolist() == [64, 32, 64]
    assert (got.seeds == 2).all() and np.isnan(got.difference.iloc[0])
    row = got.loc["six channels"]
    assert row.difference == pytest.approx(row.auc - got.auc["Siamese"])
    assert row.low < row.difference < row.high
    assert experiments.read_experiment(run, "architectures").arm.tolist() == list(got.index)


def test_a_training_is_kept_by_what_it_is_made_from(asked, monkeypatch):
    run, data = asked
    first = experiments.hidden_layers(run, data)
    trained = []
    fit = experiments.fit_variant
    monkeypatch.setattr(
        experiments, "fit_variant", lambda *args, **kw: trained.append(args) or fit(*args, **kw)
    )
    pd.testing.assert_frame_equal(experiments.hidden_layers(run, data), first)
    assert not trained and not run.model("experiment").exists()
    experiments.architectures(run, data)  # its Siamese arm is one of the above
    assert len(trained) == 2
    data.params = data.params.model_copy(update={"ladder_seeds": 3})
    assert experiments.hidden_layers(run, data).seeds.tolist() == [3] * 4


def test_every_fault_has_a_sound_baseline(asked):
    run, data = asked
    fit_regressor(data, run, "resnet18")
    fit_variant("siamese", run, data)
    epochs = {"trial": ["a", "a", "b", "c"], "epoch": [1, 2, 1, 1], "loss": [0.5, 0.4, 0.6, 0.9]}
    epochs = pd.DataFrame(epochs).assign(auc=[0.8, 0.9, 0.7, 0.5], seconds=0)
    got = experiments.faults(run, data, {"SiameseResNet": epochs}).set_index("fault")
    assert len(got) == 9
    np.testing.assert_allclose(got.faulty - got.sound, got.difference, atol=1e-9)
    shared = got.loc["one checkpoint for 3 trials (SiameseResNet)"]
    assert shared.sound == 0.9 and shared.faulty == pytest.approx(0.7)
    sample = got.loc["one sample of pairs"]
    assert sample.low < 0 < sample.high and abs(sample.difference) == max(-sample.low, sample.high)
    memory = got.loc["pairs from an N×N matrix"].query("measure.str.startswith('memory')")
    assert memory.difference.iloc[0] > 0


def test_the_course_projects_configurations_are_run_beside_what_it_reported(asked, monkeypatch):
    run, data = asked
    fit_regressor(data, run, "resnet18")
    got = beside_recipes(experiments.course_recipes(run, data))
    assert got.auc.between(0, 1).all() and (got.seeds == 2).all()
    assert got.reported.tolist() == [0.9324, 0.9198, 0.9061, 0.917, 0.7945]
    monkeypatch.setattr(experiments, "compare_arms", lambda run, name, arms, budget: arms)
    _, *six, frozen = [arm.changes for arm in experiments.course_recipes(run, data).values()]
    assert [f"{one['weight_decay']:.1e}" for one in six] == ["5.6e-06", "5.1e-05", "5.1e-06"]
    assert [one["optimizer"] for one in six] == ["adam"] * 3 and "features" in frozen

    data.params = data.params.model_copy(update={"ladder_size": data.params.image_size})
    arms = experiments.course_recipes(run, data).values()
    assert ["features" in arm.changes for arm in arms] == [False] * 4 + [True]


def test_a_seed_decides_the_initial_weights_of_every_arm(asked, monkeypatch):
    run, data = asked
    fit_regressor(data, run, "resnet18")
    fit_variant("siamese", run, data)
    seen = {}

    def look(run, name, arms, budget):
        seen.update(arms)
        raise InterruptedError

    monkeypatch.setattr(experiments, "_compared", look)
    for experiment, more in ((experiments.ladder, ()), (experiments.faults, ({},))):
        with pytest.raises(InterruptedError):
            experiment(run, data, *more)
    assert {"frozen backbone", "left face twice"} < seen.keys()

    def built(arm, seed):
        torch.manual_seed(seed)
        return torch.cat([weight.flatten() for weight in arm.build(seed).parameters()])

    for name, arm in seen.items():
        assert built(arm, 42).equal(built(arm, 42)), name
        assert not built(arm, 42).equal(built(arm, 43)), name


def test_a_pretrained_start_differs_from_its_network_in_the_start_alone(asked, monkeypatch):
    run, data = asked
    start = {"backbone": "faceres", "weights": "faceres"}
    monkeypatch.setattr(experiments, "_pretrained", lambda p: start)
    monkeypatch.setattr(experiments, "network", lambda *names, **options: options)
    monkeypatch.setattr(experiments, "compare_arms", lambda run, name, arms, budget: arms)
    arms = experiments.ladder(run, data)
    one, scratch = "faceres pretrained", "faceres from scratch"
    assert arms[one].against == scratch and not arms[scratch].against
    assert arms[one].build == arms[scratch].build | {"weights": "faceres"}
    assert arms[one].changes is arms[scratch].changes and arms[one].data is arms[scratch].data


def test_a_model_left_in_training_mode_is_not_changed(asked):
    _, data = asked
    model = experiments.network(**experiments.DROPOUT)(42).eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    got = experiments.training_mode_logits(model, data.images, data.pairs("val")[:40])
    again = experiments.training_mode_logits(model, data.images, data.pairs("val")[:40])
    assert got.shape == (40,) and not np.allclose(got, again)  # dropout is on
    assert all((model.state_dict()[name] == weight).all() for name, weight in before.items())
    assert not model.training


def test_the_leak_is_the_only_difference_of_the_plain_splits(small_run):
    data = small_run[1]
    plain = experiments._plainly_split(data)
    clean = experiments._without_leaks(plain)
    for split in ("val", "test"):
        assert (plain.rows(split) == clean.rows(split)).all()
    lost = set(plain.rows("train")) - set(clean.rows("train"))
    asked = plain.faces.split.isin(["val", "test"])
    assert lost and set(plain.faces.group[list(lost)]) <= set(plain.faces.group[asked])
    assert set(clean.rows("train")) < set(plain.rows("train"))
