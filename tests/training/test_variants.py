"""Variants of a training: what changes, larger faces, the ensemble, other seeds."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from utkcmp.compare.onnx_export import write_graphs
from utkcmp.evaluation.ensembles import make_ensemble
from utkcmp.evaluation.registry import load_models, members_of, model_costs
from utkcmp.evaluation.results import answers_to
from utkcmp.models.inference import pair_logits
from utkcmp.models.storage import load_model
from utkcmp.run import Run
from utkcmp.training.variants import fit_larger, fit_variant, repeat

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


def test_a_model_goes_on_with_larger_faces(small_run, tmp_path, monkeypatch):
    run, data = small_run
    monkeypatch.setattr(run, "folder", tmp_path)
    data = changed(data, finetune={40: 2, 48: 1}, finetune_lr=1e-4, finetune_steps=2)
    small = fit_variant("siamese", run, data, epochs=1).model
    before = {name: weight.clone() for name, weight in small.state_dict().items()}
    fitted = fit_larger(run, data, small)
    assert {size: len(one.history) for size, one in fitted.items()} == {40: 2, 48: 1}
    assert all(torch.equal(weight, before[name]) for name, weight in small.state_dict().items())
    assert all(one.reused for one in fit_larger(run, data, small).values())
    models = load_models(run)
    assert list(models) == ["SiameseResNet", "SiameseResNet, 40 px", "SiameseResNet, 48 px"]
    answers = answers_to(models, data, data.pairs("val"))
    expect = pair_logits(fitted[48].model, data.at(48).images, data.pairs("val"))
    assert np.allclose(answers["SiameseResNet, 48 px"], expect, atol=1e-5)
    costs = model_costs(run, models, data)
    assert costs.epochs.tolist() == [1, 3, 4] and (costs["faces per second"] > 0).all()


def test_an_ensemble_reduces_faces_for_its_smaller_member(small_run, tmp_path, monkeypatch):
    run, data = small_run
    monkeypatch.setattr(run, "folder", tmp_path)
    data = changed(data, finetune={40: 1}, finetune_steps=2)
    small = fit_variant("siamese", run, data, epochs=1).model
    large = fit_larger(run, data, small)[40].model
    ensemble = make_ensemble(run)
    assert ensemble.image_size == 40 and members_of(run) == (
        "SiameseResNet",
        "SiameseResNet, 40 px",
    )
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
