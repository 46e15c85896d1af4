"""What of a run is published, and that README says what its tables say."""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from utkcmp.compare.predictor import Predictor
from utkcmp.evaluation.registry import choose_model, model_folders
from utkcmp.models.storage import load_model
from utkcmp.report import publish as module
from utkcmp.report.plan import NOTEBOOKS, ReportError, read_record, record_path
from utkcmp.report.publish import (
    BEGIN,
    END,
    FIGURE,
    publish,
    readme_block,
    replace_block,
)
from utkcmp.report.summary import learned, results_table
from utkcmp.run import PROJECT, Run

PUBLISHED = PROJECT / "outputs" / "utkface"


@pytest.fixture(scope="module")
def published(whole_report, outputs):
    """What is published of it, as though it had been made in a clean checkout."""
    choose_model(whole_report)
    graph = {name: one for name, one in NOTEBOOKS.items() if read_record(whole_report, name)}
    for name in graph:
        path = record_path(whole_report, name)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "abc"}))
    whole_report.record("commits", report="abc")
    target = Run("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "git_commit", lambda: "abc")
        patch.setattr(module, "changed_files", lambda: [])
        patch.setattr(module, "MOST_BYTES", 2**28)  # of two ResNet-18, where they were chosen
        publish(whole_report, target, graph=graph)
    return target


def chosen(run) -> str:
    return json.loads((run.folder / "compare.json").read_text())["model"]


def test_a_published_run_holds_tables_book_and_models_but_no_faces(whole_report, published):
    files = {path.relative_to(published.folder).as_posix() for path in published.folder.rglob("*")}
    assert {"results.csv", "run.json", "compare.json", "report/index.html", FIGURE} <= files
    answers = f"models/{chosen(published)}"
    assert {f"{answers}/model.safetensors", f"{answers}/face.onnx", f"{answers}/README.md"} <= files
    assert "comparison/slices.csv" in files
    assert not [name for name in files if name.startswith(("pairs", "tensorboard"))]
    assert len([name for name in files if name.endswith(".safetensors")]) == 1
    assert "models/transfer_blind/config.json" in files
    assert "models/transfer_blind/model.safetensors" not in files
    assert published.results_csv.read_bytes() == whole_report.results_csv.read_bytes()


def test_its_model_is_half_as_large_and_answers_alike(whole_report, published):
    face = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    name = chosen(published)
    whole, half = (run.model(name) / "model.safetensors" for run in (whole_report, published))
    assert half.stat().st_size < 0.51 * whole.stat().st_size
    weights = load_model(whole.parent).state_dict()
    for key, one in load_file(half).items():
        torch.testing.assert_close(one.float(), weights[key].float(), rtol=1e-3, atol=1e-4)
    before, after = (Predictor(run.model(name)) for run in (whole_report, published))
    got, expect = (one.embed([face])[0] for one in (after, before))
    assert got == pytest.approx(expect, rel=0.01, abs=0.02)


def test_others_can_be_measured_on_the_same_faces(whole_report, published, marked_faces):
    faces = pd.read_csv(published.folder / "faces.csv")
    assert list(faces) == ["sha256", "split", "evaluate"] and faces.sha256.is_unique
    split, own = faces.set_index("sha256").split, whole_report.read_faces().set_index("file")
    for path in marked_faces.iterdir():  # as README says
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert split.get(digest) == own.split[path.name]


def test_the_card_tells_use_licence_figures_and_limits(published):
    name = chosen(published)
    card = (published.model(name) / "README.md").read_text()
    title = next(t for t, folder in model_folders(published).items() if folder == name)
    row = published.read_results().query("split == 'test' and protocol == 'sample'")
    row = row.set_index("model").loc[title]
    assert f"{row.accuracy:.3f} ({row.accuracy_low:.3f}–{row.accuracy_high:.3f})" in card
    for expected in ("non-commercial", "Not for", "apparent", "## Limits", "both female"):
        assert expected in card


def test_readme_gets_the_figures(published, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold figures\n{END}\nafter\n")
    replace_block(readme, readme_block(published))
    text = readme.read_text()
    assert text == f"before\n{readme_block(published)}\nafter\n"
    for row in published.read_results().query("split == 'test'").itertuples():
        assert f"{row.auc:.3f} ({row.auc_low:.3f}–{row.auc_high:.3f})" in text
    assert all(f"- {one}" in text for one in learned(published))
    readme.write_text("no marks")
    with pytest.raises(ReportError, match="has no lines"):
        replace_block(readme, readme_block(published))


def test_another_result_makes_another_table(published):
    expect = results_table(published)
    changed = published.read_results()
    changed.loc[changed.split == "test", "accuracy"] -= 0.1
    other = Run("other-results")
    shutil.copytree(published.folder, other.folder, dirs_exist_ok=True)
    changed.to_csv(other.results_csv, index=False)
    assert results_table(other) != expect


def test_too_much_is_not_published(whole_report, published, monkeypatch):
    before = sorted(published.folder.rglob("*"))
    monkeypatch.setattr(module, "check_publishable", lambda *_: None)
    monkeypatch.setattr(module, "write_graphs", lambda _: None)
    monkeypatch.setattr(module, "MOST_BYTES", 100_000)
    with pytest.raises(ReportError, match="MB would be published, of which models/.* has"):
        publish(whole_report, published)
    assert sorted(published.folder.rglob("*")) == before


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no run is published here")
def test_readme_says_what_the_published_run_says():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert readme_block(Run(PUBLISHED)) in readme


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no run is published here")
def test_the_published_run_hides_faces():
    assert json.loads((PUBLISHED / "run.json").read_text())["parameters"]["show_faces"] is False
    kinds = {path.suffix for path in PUBLISHED.rglob("*") if path.is_file()}
    assert kinds <= {
        *".html .css .js .svg .png .ttf .woff2 .txt .csv .json .yaml .md .safetensors .onnx".split()
    }
