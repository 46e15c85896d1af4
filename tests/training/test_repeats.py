"""Repeated trainings: what differs between them, what is kept, and their spread."""

import numpy as np
import pandas as pd
import pytest

from utkcmp.evaluation.metrics import pair_metrics
from utkcmp.evaluation.results import evaluate_pairs
from utkcmp.models.networks import build_model
from utkcmp.models.storage import load_model
from utkcmp.run import Run
from utkcmp.training.variants import other_split, over_seeds, read_repeats, repeat, spreads


@pytest.fixture
def data(small_run, tiny):
    import copy

    data = copy.copy(small_run[1])
    changes = {"device": "cpu", "epochs": 1, "seeds": [42, 43], "split_seeds": [44]}
    data.params = data.params.model_copy(update=changes | {"resamples": 100})
    return data


def test_a_model_is_trained_with_other_seeds_and_on_other_splits(data, tmp_path):
    run = Run(tmp_path)
    own = evaluate_pairs("SiameseResNet", build_model("SiameseResNet"), data, "test", 100)
    got = repeat("SiameseResNet", run, data, own)
    folders = sorted(path.name for path in run.model(".").iterdir())
    assert folders == ["siamese_seed43", "siamese_split44"]  # 42 is the run's own
    assert got[["varied", "seed"]].drop_duplicates().to_numpy().tolist() == [
        ["own", 42],
        ["seed", 43],
        ["split", 44],
    ]
    assert set(got.protocol) == {"sample", "all"} and len(got) == 6
    assert got.auc[:2].tolist() == [one.row["auc"] for one in own]

    model, pairs = load_model(run.model("siamese_seed43")), data.pairs("test")
    from utkcmp.models.inference import pair_logits

    expect = pair_metrics(pair_logits(model, data.images, pairs), pairs.label)
    row = got[(got.varied == "seed") & (got.protocol == "sample")].iloc[0]
    assert row.auc == pytest.approx(expect["auc"])

    written = (run.model("siamese_seed43") / "model.safetensors").stat().st_mtime_ns
    pd.testing.assert_frame_equal(repeat("SiameseResNet", run, data, own), got)
    assert (run.model("siamese_seed43") / "model.safetensors").stat().st_mtime_ns == written
    assert len(read_repeats(run)) == len(got)


def test_another_split_has_other_test_faces_and_keeps_pictures_together(data):
    other = other_split(data, 44)
    assert set(other.rows("test")) != set(data.rows("test"))
    assert other.faces.groupby("group").split.nunique().max() == 1
    assert set(other.rows("train")).isdisjoint(other.rows("test"))
    assert data.faces.split.equals(data.faces.split) and other.images is data.images


def test_spreads_are_those_of_each_series():
    rows = [("own", 42, 0.8), ("seed", 43, 0.9), ("seed", 44, 0.7), ("split", 43, 0.6)]
    table = pd.DataFrame(rows, columns=["varied", "seed", "auc"])
    table = table.assign(model="M", protocol="sample", accuracy=table.auc - 0.1)
    got = spreads(table).set_index("varied")
    assert got.trainings.to_dict() == {"seed": 3, "split": 2}
    assert got.auc.to_dict() == pytest.approx({"seed": 0.8, "split": 0.7})
    assert got.auc_sd["seed"] == pytest.approx(0.1)
    assert got.auc_sd["split"] == pytest.approx(np.std([0.8, 0.6], ddof=1))
    assert (got.accuracy_least["seed"], got.auc_most["seed"]) == pytest.approx((0.6, 0.9))
    assert over_seeds(spreads(table)).to_dict() == {"M": "0.800 ± 0.100 (3)"}


def test_one_training_has_no_spread(tmp_path):
    assert spreads(read_repeats(Run(tmp_path))).empty
    own = pd.DataFrame([{"varied": "own", "seed": 1, "model": "M", "protocol": "sample"}])
    assert spreads(own.assign(accuracy=0.5, auc=0.5)).empty
    assert over_seeds(spreads(own.assign(accuracy=0.5, auc=0.5))).empty
