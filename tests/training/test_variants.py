"""Variants of a training: what changes, a pretrained network, the ensemble, other seeds."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import interpolate

from utkcmp.compare.onnx_export import write_graphs
from utkcmp.compare.predictor import Predictor
from utkcmp.evaluation.registry import MEMBERS, load_models, make_ensemble, model_costs
from utkcmp.evaluation.results import age_table, answers_to
from utkcmp.models.inference import pair_logits
from utkcmp.models.networks import build_model
from utkcmp.models.storage import load_model
from utkcmp.run import RESULT_COLUMNS, Run
from utkcmp.training.lightning_module import Task
from utkcmp.training.variants import (
    fit_pretrained,
    fit_regressor,
    fit_variant,
    repeat,
    transfer_model,
)

pytestmark = pytest.mark.usefixtures("tiny")


def changed(data, **options):
    """The same faces under other parameters."""
    import copy

    other = copy.copy(data)
    other.params = data.params.model_copy(update={"device": "cpu", "epochs": 2} | options)
    return other


def test_a_variant_trains_with_what_is_changed(small_run, tmp_path, monkeypatch):
    run, data = small_run
    monkeypatch.setattr(run, "folder", tmp_path)
    fitted = fit_variant("one", run, changed(data), epochs=1)
    assert len(fitted.history) == 1 and (tmp_path / "models/one/model.safetensors").exists()


def test_a_pretrained_network_ranks_faces_and_states_ages(small_run, tmp_path, monkeypatch):
    run, data = small_run
    monkeypatch.setattr(run, "folder", tmp_path)
    data = changed(data, pretrained={"image_size": 40, "epochs": 1, "age_weight": 0.5})
    fitted = fit_pretrained(run, data)
    assert len(fitted.history) == 1 and fit_pretrained(run, data).reused
    models, pairs = load_models(run), data.pairs("test")
    assert list(models) == ["RankingAgeRegressor"]
    answers = answers_to(models, data, pairs)["RankingAgeRegressor"]
    np.testing.assert_allclose(
        answers, -pair_logits(fitted.model, data.at(40).images, pairs.mirrored()), atol=1e-4
    )
    stated = age_table(models, data)
    assert list(stated.index) == ["RankingAgeRegressor"] and stated.MAE.notna().all()
    costs = model_costs(run, models, data)
    assert costs.epochs.tolist() == [1] and (costs["faces per second"] > 0).all()
    write_graphs(run.model("ranking_regressor"))  # which compares them with PyTorch
    predictor = Predictor(run.model("ranking_regressor"))
    assert predictor.has_ages and predictor.has_scores and predictor.image_size == 40


def test_an_ensemble_reduces_faces_for_its_smaller_member(small_run, tmp_path, monkeypatch):
    run, data = small_run
    monkeypatch.setattr(run, "folder", tmp_path)
    data = changed(data, epochs=1)
    small = fit_variant("siamese", run, data).model
    large = fit_variant("transfer", run, data.at(40)).model
    fit_regressor(data, run, "resnet18")  # what a run with a transfer model has
    assert make_ensemble(run) is None  # nor has a run that was broken off in notebook 06
    rows = pd.DataFrame({"model": MEMBERS, "seed": 42, "split": "val", "protocol": "sample"})
    run.add_results(rows.reindex(columns=RESULT_COLUMNS))
    ensemble = make_ensemble(run)
    assert ensemble.image_size == 40
    left, right = torch.rand(2, 3, 3, 40, 40)
    reduced = (
        interpolate(side, data.images.shape[-2:], mode="bilinear", antialias=True)
        for side in (left, right)
    )
    with torch.no_grad():
        expect = (small(*reduced) + large(left, right)) / 2
        torch.testing.assert_close(ensemble(left, right), expect, atol=1e-4, rtol=1e-4)
        again = load_model(run.model("ensemble"))
        torch.testing.assert_close(again(left, right), expect, atol=1e-4, rtol=1e-4)
    write_graphs(run.model("ensemble"))  # which compares them with PyTorch


def test_other_seeds_are_rows_of_the_same_model(small_run, tmp_path):
    _, data = small_run
    run, data = Run(tmp_path), changed(data, epochs=1, seeds=[42, 43], resamples=100)
    repeat("SiameseResNet", run, data)
    rows = run.read_results(every_seed=True)
    assert set(rows.seed) == {43} and set(rows.model) == {"SiameseResNet"}  # 42 is the run's own
    assert sorted(zip(rows.split, rows.protocol, strict=True)) == [
        ("test", "all"),
        ("test", "sample"),
        ("val", "sample"),
    ]
    assert load_model(run.model("siamese_seed43")) is not None


def test_a_frozen_models_head_is_trained_with_dropout_on_steady_features(
    small_run, tmp_path, monkeypatch
):
    run, data = small_run
    monkeypatch.setattr(run, "folder", tmp_path)
    data, modes = changed(data, hidden_layers=[8], use_dropout=True, mirror=True), []
    regressor = fit_regressor(data, run, data.params.backbone).model
    model = transfer_model(regressor, data.params)
    assert regressor.mirror and model.regressor.mirror  # one thing differs: the head
    step = Task.training_step

    def look(task, batch, number):
        modes.append((task.model.head.training, task.model.regressor.training))
        return step(task, batch, number)

    monkeypatch.setattr(Task, "training_step", look)
    for ema in (0.0, 0.9):
        fit_variant(f"head_{ema}", run, changed(data, ema=ema), model, retrain=True)
        model = transfer_model(regressor, data.params)
    assert set(modes) == {(True, False)} and len(modes) > 4


def test_an_ensemble_of_symmetric_members_is_their_mean(small_run):
    _, data = small_run
    members = [build_model("SiameseResNet", symmetric=True, hidden_layers=[4]) for _ in range(2)]
    joint = build_model("PairEnsemble", members=[one.config for one in members])
    for own, one in zip(joint.members, members, strict=True):
        own.load_state_dict(one.state_dict())
    pairs = data.pairs("val")
    got, *parts = (pair_logits(one.eval(), data.images, pairs) for one in (joint, *members))
    np.testing.assert_allclose(got, np.mean(parts, axis=0), atol=1e-5)
