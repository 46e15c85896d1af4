import numpy as np
import pytest
import torch

from utkcmp.ablations import fit_other_pairing, leak_contrast, plainly_split
from utkcmp.comparison import LARGER, answers_to, load_models, model_costs
from utkcmp.evaluation import Evaluated
from utkcmp.inference import pair_logits
from utkcmp.pairs import AllPairs
from utkcmp.split import parted_pictures
from utkcmp.training import fit_larger, fit_variant

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
        "utkcmp.training.fit",
        lambda *args, train, batch_size, epochs, steps_per_epoch=None, **options: spent.append(
            (isinstance(train, np.ndarray), batch_size, epochs * steps_per_epoch)
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
    fitted = fit_variant("one", run, changed(data), epochs=1, progress=False)
    assert len(fitted.history) == 1 and (tmp_path / "models/one/model.safetensors").exists()


def test_a_model_goes_on_with_larger_faces(small_run, tmp_path, monkeypatch):
    run, data = small_run
    monkeypatch.setattr(run, "folder", tmp_path)
    size = data.images.shape[-1] * 2
    data = changed(data, finetune_size=size, finetune_epochs=2, finetune_lr=1e-4, progress=False)
    small = fit_variant("siamese", run, data, epochs=1).model
    before = {name: weight.clone() for name, weight in small.state_dict().items()}
    fitted = fit_larger(run, data, small)
    assert len(fitted.history) == 2 and fitted.model.image_size == size
    assert all(torch.equal(weight, before[name]) for name, weight in small.state_dict().items())
    assert fit_larger(run, data, small).reused
    assert load_models(run)[LARGER].image_size == size
    answers = answers_to(load_models(run), data, data.pairs("val"))
    expect = pair_logits(fitted.model, data.at(size).images, data.pairs("val"))
    assert np.allclose(answers[LARGER], expect, atol=1e-5)
    costs = model_costs(run, load_models(run))
    assert costs.epochs.to_dict() == {"SiameseResNet": 1, LARGER: 3}


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
