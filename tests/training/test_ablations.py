import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from utkcmp.compare.onnx_export import write_graphs
from utkcmp.data.pairs import AllPairs
from utkcmp.data.split import parted_pictures
from utkcmp.evaluation.ensembles import make_ensemble, members_of
from utkcmp.evaluation.registry import load_models, model_costs
from utkcmp.evaluation.results import Evaluated, answers_to
from utkcmp.models.inference import pair_logits
from utkcmp.models.storage import load_model
from utkcmp.training.variants import (
    fit_larger,
    fit_other_pairing,
    fit_variant,
    leak_contrast,
    plainly_split,
)

pytestmark = pytest.mark.usefixtures("tiny")


def changed(data, **options):
    """The same faces under other parameters."""
    import copy

    other = copy.copy(data)
    other.params = data.params.model_copy(update={"device": "cpu", "epochs": 2} | options)
    return other


@pytest.mark.parametrize("pairing", ["batch", "list"])
def test_the_other_pairing_costs_as_many_faces(pairing, small_run, tmp_path, monkeypatch):
    run, data = small_run
    monkeypatch.setattr(run, "folder", tmp_path)
    data = changed(data, pairing=pairing, batch_size=16, data_size=160)
    spent = []
    monkeypatch.setattr(
        "utkcmp.training.variants.fit",
        lambda model, data, s, train, **options: spent.append(
            (isinstance(train, np.ndarray), s.batch_size, s.epochs * s.steps_per_epoch)
        ),
    )
    fit_other_pairing(run, data, epochs=3)
    faces = len(data.rows("train"))
    if pairing == "batch":  # 16 faces a step, so 8 pairs a step and as many steps
        assert spent == [(False, 8, 3 * (faces // 16))]
    else:  # 10 steps of 16 pairs an epoch, so 32 faces a step and about 30 steps
        (by_face, size, steps) = spent[0]
        assert by_face and size == 32 and abs(steps - 30) <= faces // 32


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
    assert model_costs(run, models).epochs.tolist() == [1, 3, 4]


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


def test_the_plain_split_parts_pictures(small_run):
    _, data = small_run
    assert parted_pictures(data.faces, data.faces.split) == 0
    assert parted_pictures(data.faces, plainly_split(data).faces.split) > 0


def test_a_leak_shows_as_a_contrast(small_run):
    _, data = small_run
    plain = plainly_split(data)
    faces, rows = plain.faces, plain.rows("test")
    pairs = AllPairs(faces.age.to_numpy()[rows])[:].take(rows)
    known = faces.group.isin(faces.group[faces.split == "train"]).to_numpy()
    known = known[pairs.left] | known[pairs.right]
    assert known.any() and not known.all()
    right = np.where(pairs.label == 1, 1.0, -1.0)
    one = Evaluated({}, pairs, np.where(known, right, -right))  # right only where it leaks
    got = leak_contrast(one, plain)
    assert got.pairs.tolist() == [known.sum(), (~known).sum()]
    assert got.accuracy.tolist() == [1.0, 0.0]
