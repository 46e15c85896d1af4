import json

import numpy as np
import pandas as pd
import pytest
import torch

from utkcmp.compare.predictor import find_model
from utkcmp.compare.robustness import calibrate_models
from utkcmp.data.index import read_crops
from utkcmp.evaluation.calibration import Calibration, calibrate, fit_temperature
from utkcmp.evaluation.registry import choose_model
from utkcmp.models.networks import build_model
from utkcmp.models.storage import save_model
from utkcmp.run import CHOICE


def save(folder, name, symmetric=False):
    torch.manual_seed(1)
    model = build_model(name, symmetric=symmetric, image_size=32).eval()
    history = pd.DataFrame({"epoch": [1], "val_loss": [0.5]})
    save_model(model, folder, settings={}, history=history)
    return model


@pytest.fixture
def run(small_run, tiny):
    """The small run with two models: the six-channel one has the higher validation AUC."""
    run, data = small_run
    save(run.model("siamese"), "SiameseResNet")
    save(run.model("concat"), "ResNetClassifier")
    rows = [("SiameseResNet", "val", 0.7), ("ResNetClassifier", "val", 0.9)]
    rows += [("SiameseResNet", "test", 0.1), ("ResNetClassifier", "test", 0.2)]
    table = pd.DataFrame(rows, columns=["model", "split", "auc"]).assign(protocol="sample", seed=42)
    run.add_results(table)
    return run, data


def test_the_best_by_validation_that_sees_each_face_by_itself(run):
    assert choose_model(run[0]) == "siamese"
    assert json.loads((run[0].folder / CHOICE).read_text()) == {"model": "siamese"}
    assert find_model() == run[0].model("siamese")


def test_a_run_without_evaluated_models(outputs):
    from utkcmp.run import Run

    with pytest.raises(FileNotFoundError, match="run notebook 04 or 06 first"):
        choose_model(Run("empty"))


def test_calibration_is_kept_beside_the_model(run):
    run, data = run
    got = calibrate_models(run, data)
    assert list(got) == ["siamese"]
    assert Calibration.read(run.model("siamese")) == got["siamese"]
    assert got["siamese"].drawn and np.shape(got["siamese"].frame) == (5, 2)
    assert got["siamese"].pairs == len(data.pairs("val"))


def test_the_temperature_is_that_of_answers_by_both_orders(run):
    run, data = run
    model = save(run.model("siamese"), "SiameseResNet", symmetric=True)
    pairs = data.pairs("val")
    from utkcmp.models.inference import pair_logits

    logits = pair_logits(model, data.images, pairs)  # a symmetric model does it by itself
    found = calibrate(run.model("siamese"), data)
    assert found.temperature == pytest.approx(fit_temperature(logits, pairs.label), rel=1e-3)


def test_a_retrained_model_loses_its_calibration(run):
    run, data = run
    calibrate(run.model("siamese"), data)
    save(run.model("siamese"), "SiameseResNet")
    assert Calibration.read(run.model("siamese")) == Calibration()


def test_crops_come_in_the_order_asked(run):
    _, data = run
    rows = data.rows("val")[[3, 0, 2]]
    for crop, row in zip(read_crops(data, rows), rows, strict=True):
        small = np.asarray(crop.resize((32, 32))).transpose(2, 0, 1).astype(int)
        assert np.abs(small - data.images[row].numpy()).mean() < 3
