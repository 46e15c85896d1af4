"""The error names the page, commit, file or model that keeps a run from being published."""

import json
import os
import subprocess

import nbformat
import pandas as pd
import pytest

from utkcmp.report import publish
from utkcmp.report.plan import Notebook, ReportError, plan, read_notebooks, record_path
from utkcmp.run import RESULT_COLUMNS, Run

GRAPH = {
    "02_split": Notebook(uses="data split"),
    "04_siamese": Notebook("02_split", "data training"),
}
GIVEN = {"run": "x", "show_faces": False}


@pytest.fixture
def folder(tmp_path):
    """Two notebooks."""
    place = tmp_path / "notebooks"
    place.mkdir()
    for name in GRAPH:
        cells = [nbformat.v4.new_code_cell("epochs = 3", metadata={"tags": ["parameters"]})]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), place / f"{name}.ipynb")
    return place


@pytest.fixture
def run(tmp_path, folder, monkeypatch):
    """A publishable run of these notebooks."""
    monkeypatch.setattr(publish, "git_commit", lambda: "abc")
    monkeypatch.setattr(publish, "changed_files", lambda: [])
    monkeypatch.setattr("utkcmp.run.environment", dict)
    run = Run(tmp_path / "run")
    (run.folder / "report").mkdir(parents=True)
    (run.folder / "notebooks").mkdir()
    for name in ("report/index.html", "compare.json", "model"):
        (run.folder / name).touch()
    row = dict.fromkeys(RESULT_COLUMNS, 1) | {"model": "a", "protocol": "all"}
    run.add_results(pd.DataFrame([row | {"split": split} for split in ("val", "test")]))
    run.record("parameters", **GIVEN)
    run.record("data", index="0")
    run.record("commits", report="abc")
    for step in plan(read_notebooks(folder, GRAPH), GRAPH, GIVEN, "0", folder):
        record = {"inputs": step.inputs, "parameters": step.parameters, "commit": "abc"}
        change(run, step.name, **record, wrote=["model"], spent=[1, 1], since=1, finished=step.name)
        record_path(run, step.name).with_suffix(".ipynb").touch()
        (run.folder / "report" / f"{step.name}.html").touch()
    return run


def change(run, name, **entries):
    path = record_path(run, name)
    record = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(record | entries))


def no_validation(run, folder):
    results = run.read_results()
    results[results.split == "test"].to_csv(run.results_csv, index=False)


def other_source(run, folder):
    path = folder / "04_siamese.ipynb"
    path.write_text(path.read_text().replace("epochs = 3", "epochs = 4"))


FAULTS = {
    "finished": (lambda run, folder: None, None),
    "a figure is missing": (
        lambda run, _: (run.folder / "model").unlink(),
        "page 02_split wrote model, which is gone",
    ),
    "two commits": (
        lambda run, _: change(run, "04_siamese", commit="def"),
        "page 04_siamese is from commit def, the rest from abc",
    ),
    "trained by an older commit": (
        lambda run, _: change(run, "02_split", commit="def, abc"),
        "page 02_split is from commit def, abc, the rest from abc",
    ),
    "rendered later": (
        lambda run, _: run.record("commits", report="def"),
        "the rendering is from commit def, the rest from abc",
    ),
    "changed files": (
        lambda run, _: change(run, "02_split", commit="abc+"),
        r"page 02_split has no clean commit \(abc\+\)",
    ),
    "two sets of parameters": (
        lambda run, _: change(run, "04_siamese", parameters=GIVEN | {"epochs": 9}),
        "page 04_siamese was made before its parameters changed",
    ),
    "other source": (other_source, "page 04_siamese was made before its source changed"),
    "interrupted": (
        lambda run, _: change(run, "04_siamese", finished=""),
        "page 04_siamese has not run to its end",
    ),
    "read an older one": (
        lambda run, _: change(run, "02_split", finished="05"),
        "page 04_siamese is older than 02_split",
    ),
    "rendered before": (
        lambda run, _: os.utime(run.folder / "report/04_siamese.html", (1, 1)),
        "page 04_siamese is older than its notebook",
    ),
    "not validated": (no_validation, "a has no row of validation pairs in results.csv"),
    "shows faces": (lambda run, _: run.record("parameters", show_faces=True), "shows faces"),
    "no model chosen": (
        lambda run, _: (run.folder / "compare.json").unlink(),
        "has no compare.json: make its whole report first",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_one_run_is_refused(fault, run, folder):
    make, said = FAULTS[fault]
    make(run, folder)
    if said is None:
        publish.check_publishable(run, folder, GRAPH)
    else:
        with pytest.raises(ReportError, match=said):
            publish.check_publishable(run, folder, GRAPH)


def test_another_checkout_and_a_changed_file_are_refused(run, folder, monkeypatch):
    monkeypatch.setattr(publish, "changed_files", lambda: ["utkcmp/params.py"])
    with pytest.raises(ReportError, match="utkcmp/params.py differs from its commit"):
        publish.check_publishable(run, folder, GRAPH)
    monkeypatch.setattr(publish, "git_commit", lambda: "def+")
    with pytest.raises(ReportError, match="this checkout is from commit def, the rest from abc"):
        publish.check_publishable(run, folder, GRAPH)


def test_changed_files_are_those_that_publishing_does_not_write(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "PROJECT", tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in ("README.md", "outputs/utkface/results.csv", "a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert publish.changed_files() == ["a.py"]
