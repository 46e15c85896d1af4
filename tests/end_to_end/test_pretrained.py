"""A pretrained start in all that a backbone is used for, with random weights for the real ones."""

import pytest
import torch
from test_solver import DATA, PAIRS, ROWS, SETTINGS

from utkcmp.compare.onnx_export import export, write_graphs
from utkcmp.evaluation.saliency import saliency
from utkcmp.models import build_model, load_model, read_config
from utkcmp.models.backbones import make_backbone
from utkcmp.training.settings import Settings
from utkcmp.training.solver import fit

START = {"backbone": "faceres", "weights": "faceres", "age_loss": "distribution"}
CHANGES = {"lr": 1e-3, "backbone_lr": 0.2, "ema": 0.9, "age_weight": 0.5, "epochs": 3}


def train(name, folder, **given):
    torch.manual_seed(0)
    model, val = build_model(name, **START), PAIRS[ROWS]
    settings = Settings.of(**SETTINGS | CHANGES)
    on = val if name == "ResNetClassifier" else ROWS
    val = ROWS if name == "ResNetAgeRegressor" else val
    return fit(model, DATA, settings, train=on, val=val, folder=folder, **given)


@pytest.mark.parametrize(
    "name",
    [
        "ResNetClassifier",
        "RankingAgeRegressor",
        pytest.param("SiameseResNet", marks=pytest.mark.slow),
        pytest.param("ResNetAgeRegressor", marks=pytest.mark.slow),
    ],
)
def test_a_model_is_trained_from_it_and_then_needs_it_no_more(name, faceres, tmp_path):
    fitted = train(name, tmp_path)
    channels = 6 if name == "ResNetClassifier" else 3
    start = make_backbone("faceres", "faceres", channels)[0]
    moved = [
        (now - before).abs().max()
        for now, before in zip(fitted.model.backbone.parameters(), start.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 0.01  # it began there, and a few steps went on from it
    faceres.rename(away := tmp_path / "away")
    model = load_model(tmp_path)
    away.rename(faceres)
    assert read_config(tmp_path)["options"]["weights"] == "faceres"
    stored = zip(model.parameters(), fitted.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in stored)
    if name == "ResNetClassifier":
        assert "output: logit" in export(tmp_path, tmp_path / "whole.onnx")
    else:
        write_graphs(tmp_path)  # which compares them with PyTorch, as an export does
    if name != "ResNetAgeRegressor":  # which answers for a face, not for a pair
        maps = saliency(model, DATA.images, PAIRS[ROWS[:2]], steps=2)
        assert maps.sum((1, 2, 3)) == pytest.approx([1, 1], abs=1e-5)


def test_an_interrupted_training_goes_on_to_the_same_weights(faceres, tmp_path):
    whole = train("SiameseResNet", tmp_path / "whole")

    def interrupt(row):
        if row["epoch"] == 2:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        train("SiameseResNet", tmp_path / "cut", on_epoch=interrupt)
    assert (tmp_path / "cut" / "last.ckpt").exists()
    gone_on = []
    resumed = train("SiameseResNet", tmp_path / "cut", on_epoch=gone_on.append)
    assert [row["epoch"] for row in gone_on] == [2, 3]
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
