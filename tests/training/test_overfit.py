"""Whole networks on a handful of faces: what cannot learn these by heart cannot learn at all."""

import itertools
import os

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from utkcmp.data.archives import data_source, files_of, read_file
from utkcmp.data.decode import decode, resize
from utkcmp.data.index import parse_name
from utkcmp.models.inference import to_float
from utkcmp.models.networks import build_model
from utkcmp.params import Params

UNSET = pytest.mark.skipif("UTKFACE" not in os.environ, reason="UTKFACE is not set")
REAL = pytest.param("real", marks=[UNSET, pytest.mark.slow])


@pytest.fixture(scope="module", params=["drawn", REAL])
def batch(request, outputs):
    """Twelve faces of different ages, normalised (12, 3, 32, 32), and their ages (12,)."""
    drawn = request.param == "drawn"
    source = data_source(Params(n_faces=120)) if drawn else os.environ["UTKFACE"]
    found = {}
    for name, path in itertools.islice(files_of(source).items(), 4000):
        age = parse_name(name.rsplit("/")[-1])["age"]
        if age is not None and age not in found:
            try:
                found[age] = resize(decode(read_file(path)), 32)
            except ValueError:
                continue
        if len(found) == 12:
            break
    images = to_float(torch.from_numpy(np.stack(list(found.values()))))
    return images, torch.tensor(list(found), dtype=torch.float32)


def overfit(model, loss, steps):
    optimizer = torch.optim.Adam(
        [w for w in model.parameters() if w.requires_grad], lr=1e-3, fused=True
    )
    model.train()
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return loss().item()


@pytest.mark.parametrize("name", ["SiameseResNet", "ResNetClassifier", "AgeRanker"])
def test_pair_models(name, batch):
    images, ages = batch
    torch.manual_seed(0)
    model, (left, right) = build_model(name), images.chunk(2)
    label = (ages[:6] > ages[6:]).float()
    got = overfit(model, lambda: binary_cross_entropy_with_logits(model(left, right), label), 20)
    assert got < 0.02


def test_a_head_on_a_frozen_regressor(batch):
    images, ages = batch
    torch.manual_seed(0)
    model = build_model("SiameseResNetAge", hidden_layers=[64, 32])
    features, label = model.embed(images), (ages[:6] > ages[6:]).float()
    features = (features - features.mean(0)) / (
        features.std(0) + 1e-6
    )  # an untrained network's are tiny

    def loss():
        return binary_cross_entropy_with_logits(
            model.compare(*model.contribute(features).chunk(2)), label
        )

    assert overfit(model, loss, 300) < 0.02


@pytest.mark.parametrize("age_loss, enough", [("mse", 0.02), ("distribution", 0.2)])
def test_age_regressors(age_loss, enough, batch):
    images, ages = batch
    torch.manual_seed(0)
    model = build_model("ResNetAgeRegressor", age_loss=age_loss)
    model.set_ages(ages)
    assert overfit(model, lambda: model.loss(images, ages), 35) < enough
