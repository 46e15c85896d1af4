import numpy as np
import pandas as pd
import pytest
import torch

from utkcmp.evaluation.calibration import circular_share
from utkcmp.evaluation.registry import (
    AGES_COMPARED,
    by_validation,
    load_models,
    model_costs,
    model_folders,
    needed_for,
)
from utkcmp.evaluation.results import all_answers, answers_to
from utkcmp.models.networks import build_model
from utkcmp.run import Run
from utkcmp.training.variants import fit_regressor, fit_variant

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def trained(small_run, tmp_path):
    """A run with a Siamese model, a regressor and the transfer from it, one epoch each."""
    _, data = small_run
    run = Run(tmp_path)
    changes = {"device": "cpu", "epochs": 1, "regressor_epochs": 1}
    data.params = data.params.model_copy(update=changes)
    regressor = fit_regressor(data, run, "resnet18").model
    for name, folder in (("SiameseResNet", "siamese"), ("SiameseResNetAge", "transfer")):
        torch.manual_seed(0)
        model = build_model(name)
        if folder == "transfer":
            model.regressor.load_state_dict(regressor.state_dict())
        fit_variant(folder, run, data, model, pairing="list")
    return run, data


def test_only_finished_models_are_compared(trained, tmp_path):
    run, _ = trained
    run.model("concat").mkdir()
    (run.model("concat") / "last.ckpt").touch()
    expect = {
        "SiameseResNet": "siamese",
        "SiameseResNetAge": "transfer",
        AGES_COMPARED: "age_regressor_resnet18",
    }
    assert model_folders(run) == expect
    assert model_folders(Run(tmp_path / "nothing")) == {}


def test_every_model_answers_the_same_pairs(trained):
    run, data = trained
    models = load_models(run)
    pairs = data.pairs("test")
    answers = answers_to(models, data, pairs)
    assert {logits.shape for logits in answers.values()} == {(len(pairs),)}
    ages = answers[AGES_COMPARED]
    mirrored = answers_to(models, data, pairs.mirrored())[AGES_COMPARED]
    np.testing.assert_allclose(ages, -mirrored, atol=1e-6)
    costs = model_costs(run, models, data)
    assert costs.epochs.to_dict() == {"SiameseResNet": 1, "SiameseResNetAge": 2, AGES_COMPARED: 1}
    minutes = costs["training (minutes)"]
    assert minutes["SiameseResNetAge"] > minutes[AGES_COMPARED]  # its regressor's are in it
    assert (costs["faces per second"] > 0).all()
    assert needed_for("ensemble") == ["SiameseResNet", AGES_COMPARED, "SiameseResNetAge"]


def test_all_answers_cover_every_pair(trained):
    run, data = trained
    pairs, logits = all_answers(load_models(run)["SiameseResNet"], data)
    ages = data.ages.numpy()[data.rows("test")]
    assert len(logits) == len(pairs) == (ages[:, None] > ages).sum()
    with pytest.raises(ValueError, match="two faces at once"):
        all_answers(build_model("ResNetClassifier"), data)


def test_a_model_that_scores_faces_answers_in_no_circle(trained):
    run, data = trained
    models = load_models(run)
    assert circular_share(models[AGES_COMPARED], data) == 0
    torch.manual_seed(0)
    assert circular_share(build_model("ResNetClassifier").eval(), data, 100) > 0


def test_validation_ranks_by_the_mean_of_all_seeds():
    rows = [("A", 1, 0.9), ("A", 2, 0.5), ("B", 1, 0.8)]
    table = pd.DataFrame(rows, columns=["model", "seed", "auc"])
    assert by_validation(table.assign(split="val", protocol="sample")) == ["B", "A"]
