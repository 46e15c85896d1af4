"""The off-the-shelf estimator: asked once, about the right faces, and left out where it is not."""

import numpy as np
import pandas as pd
import pytest

from utkcmp.data.pairs import Pairs
from utkcmp.evaluation import peers
from utkcmp.evaluation.peers import age_differences, peer_ages, peer_row
from utkcmp.run import PEER, Run, installed


@pytest.fixture
def asked(monkeypatch):
    """A stand-in for the estimator that answers with the length of a file's name."""
    calls = []

    def ask(source, files):
        calls.append(files)
        for file in sorted(files, reverse=True):
            yield {"file": file, "age": len(file), "seconds": 0.5}

    monkeypatch.setattr(peers, "_ask", ask)
    monkeypatch.setattr(peers, "installed", lambda package: "1.0")
    return calls


def test_ages_are_asked_once_and_kept_with_the_run(small_run, tmp_path, asked):
    _, data = small_run
    run = Run(tmp_path)
    got = peer_ages(run, data, "test")
    faces = data.faces.iloc[data.rows("test")]
    assert got.file.tolist() == faces.file.tolist()
    assert got.age.tolist() == faces.file.str.len().tolist()
    pd.testing.assert_frame_equal(peer_ages(run, data, "test"), got)
    assert asked == [set(faces.file)]
    assert len(peer_ages(run, data, "val")) == len(data.rows("val")) and len(asked) == 2


def test_what_is_kept_of_other_faces_is_asked_anew(small_run, tmp_path, asked):
    _, data = small_run
    run = Run(tmp_path)
    peer_ages(run, data, "test")
    kept = next((tmp_path / "peers").glob("*.csv"))
    pd.read_csv(kept).assign(sha256="other").to_csv(kept, index=False)
    assert not peer_ages(run, data, "test").sha256.eq("other").any() and len(asked) == 2


def test_without_the_package_what_is_kept_still_counts(small_run, tmp_path, asked, monkeypatch):
    _, data = small_run
    run = Run(tmp_path)
    kept = peer_ages(run, data, "test")
    monkeypatch.setattr(peers, "installed", lambda package: None)
    pd.testing.assert_frame_equal(peer_ages(run, data, "test"), kept)
    assert peer_ages(run, data, "val") is None


def test_ages_become_answers_to_pairs():
    pairs = Pairs(np.array([3, 8, 9]), np.array([9, 3, 8]), np.array([0, 1, 1], np.int8))
    got = age_differences(pd.Series([20, 31, 31]), np.array([3, 8, 9]), pairs)
    assert got.tolist() == [-11, 11, 0]
    row = peer_row(got, pairs, resamples=100)
    assert row["accuracy"] == pytest.approx(2 / 3) and row["auc"] == 1.0
    assert np.isnan(row["loss"]) and row["n_pairs"] == 3
    assert row["swap_disagreement"] == pytest.approx(1 / 3)  # alike: the right face both times


@pytest.mark.skipif(not installed(PEER), reason=f"{PEER} is not installed: `make peers`")
def test_the_package_itself_gives_an_age_to_every_face(small_run, tmp_path):
    _, data = small_run
    got = peer_ages(Run(tmp_path), data, "test")
    assert got.age.between(0, 80).all() and (got.seconds > 0).all()
