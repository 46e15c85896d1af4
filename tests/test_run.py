import os
import platform
import subprocess

import pandas as pd
import pytest

from utkcmp import run as module
from utkcmp.files import atomic, replaced
from utkcmp.run import Run, outputs_root


def test_atomic_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_outputs_go_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path))
    assert outputs_root() == tmp_path
    assert Run("x").faces_csv == tmp_path / "x" / "faces.csv"
    monkeypatch.delenv("UTKCMP_OUTPUTS")
    assert outputs_root() == module.PROJECT / "outputs"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "CHECKOUT", False)  # installed
    assert outputs_root() == tmp_path / "outputs"


def test_a_run_without_a_split_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="run notebooks/02_split.ipynb first"):
        Run(tmp_path).read_faces()


def test_a_result_replaces_the_one_of_the_same_model_split_and_protocol(tmp_path):
    run = Run(tmp_path)
    row = {"model": "a", "seed": 42, "split": "test", "protocol": "sample", "auc": 0.5}
    run.add_results(pd.DataFrame([row, row | {"protocol": "all"}]))
    run.add_results(pd.DataFrame([row | {"auc": 0.9}]))
    got = run.read_results().set_index("protocol").auc
    assert got.to_dict() == {"all": 0.5, "sample": 0.9}


def test_the_record_keeps_what_others_wrote(tmp_path):
    run = Run(tmp_path)
    run.record("seconds", one=1)
    run.record("seconds", two=2)
    assert run.read_record()["seconds"] == {"one": 1, "two": 2}
    assert "torch" in run.read_record()["packages"]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    path, other = tmp_path / "a.csv", tmp_path / ".a.csv.user"
    node, ended = platform.node(), subprocess.Popen(["true"])
    ended.wait()
    elsewhere = tmp_path / ".a.csv.1@elsewhere.0123abcd.csv"
    for left in (tmp_path / f".a.csv.{ended.pid}@{node}.0123abcd.csv", elsewhere, other):
        left.write_text("half")
    with atomic(path) as in_use:
        in_use.write_text("first")
        with atomic(path) as temporary:  # as of another process, at the same time
            temporary.write_text("second")
        assert in_use.exists() and path.read_text() == "second"
    assert path.read_text() == "first"
    assert set(tmp_path.iterdir()) == {path, other, elsewhere}
    os.utime(elsewhere, (0, 0))
    with replaced(tmp_path / "b"), atomic(path) as temporary:
        temporary.write_text("third")
    assert set(tmp_path.iterdir()) == {path, other, tmp_path / "b"}
