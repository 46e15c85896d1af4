"""What of a run is published, and that README says what its tables say."""

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
from utkcmp.report.plan import ReportError
from utkcmp.report.publish import (
    BEGIN,
    END,
    FIGURE,
    publish,
    published_models,
    readme_block,
    update_readme,
)
from utkcmp.report.summary import learned, results_table
from utkcmp.run import PROJECT, Run

PUBLISHED = PROJECT / "outputs" / "utkface"


@pytest.fixture(scope="module")
def published(whole_report, outputs):
    choose_model(whole_report)
    target = Run("published")
    publish(whole_report, target)
    return target


def chosen(run) -> str:
    return json.loads((run.folder / "compare.json").read_text())["model"]


def test_a_published_run_holds_tables_book_and_models_but_no_faces(whole_report, published):
    files = {path.relative_to(published.folder).as_posix() for path in published.folder.rglob("*")}
    assert {"results.csv", "run.json", "compare.json", "report/index.html", FIGURE} <= files
    answers = f"models/{chosen(published)}"
    assert {f"{answers}/model.safetensors", f"{answers}/face.onnx", f"{answers}/README.md"} <= files
    assert "comparison/slices.csv" in files
    assert not [name for name in files if name.startswith(("faces.csv", "pairs", "tensorboard"))]
    assert "models/transfer_blind/config.json" in files
    assert "models/transfer_blind/model.safetensors" not in files
    assert published.results_csv.read_bytes() == whole_report.results_csv.read_bytes()


def test_published_models_are_half_as_large_and_answer_alike(whole_report, published):
    face = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    names = published_models(whole_report)
    assert names[0] == chosen(published)
    for name in names:
        whole, half = (run.model(name) / "model.safetensors" for run in (whole_report, published))
        assert half.stat().st_size < 0.51 * whole.stat().st_size
        weights = load_model(whole.parent).state_dict()
        for key, one in load_file(half).items():
            torch.testing.assert_close(one.float(), weights[key].float(), rtol=1e-3, atol=1e-4)
        before, after = (Predictor(run.model(name)) for run in (whole_report, published))
        got, expect = (one.embed([face])[0] for one in (after, before))
        assert got == pytest.approx(expect, rel=0.01, abs=0.02)
        assert (published.model(name) / "face.onnx").stat().st_size < 500_000


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
    update_readme(published, readme)
    text = readme.read_text()
    assert text == f"before\n{readme_block(published)}\nafter\n"
    for row in published.read_results().query("split == 'test'").itertuples():
        assert f"{row.auc:.3f} ({row.auc_low:.3f}–{row.auc_high:.3f})" in text
    assert all(f"- {one}" in text for one in learned(published))
    readme.write_text("no marks")
    with pytest.raises(ReportError, match="has no lines"):
        update_readme(published, readme)


def test_another_result_makes_another_table(published):
    expect = results_table(published)
    changed = published.read_results()
    changed.loc[changed.split == "test", "accuracy"] -= 0.1
    other = Run("other-results")
    shutil.copytree(published.folder, other.folder, dirs_exist_ok=True)
    changed.to_csv(other.results_csv, index=False)
    assert results_table(other) != expect


@pytest.mark.parametrize("fault", ["shows faces", "not finished"])
def test_what_must_not_be_published_is_refused(fault, published, tmp_path):
    run = Run(tmp_path / "run")
    shutil.copytree(published.folder, run.folder)
    if fault == "shows faces":
        run.record("parameters", show_faces=True)
    else:
        (run.folder / "compare.json").unlink()
    with pytest.raises(ReportError, match="show_faces|whole report"):
        publish(run, Run(tmp_path / "target"))
    assert not (tmp_path / "target").exists()


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no run is published here")
def test_readme_says_what_the_published_run_says():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert readme_block(Run(PUBLISHED)) in readme


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no run is published here")
def test_readme_says_what_the_last_step_to_larger_faces_gained():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8").replace("−", "-")
    published = Run(PUBLISHED)
    step = pd.read_csv(published.compared("sizes")).iloc[0]
    validated = published.read_results().query("split == 'val'").set_index("model").auc
    auc, accuracy = (
        f"{step[one]:+.4f}, paired 95 % interval {step[f'{one}_low']:+.4f} to "
        f"{step[f'{one}_high']:+.4f}"
        for one in ("auc", "accuracy")
    )
    assert f"(AUC {validated[step.better]:.4f} against {validated[step.other]:.4f})" in readme
    assert f"(AUC {auc}; accuracy {accuracy.replace(' paired 95 % interval', '')})" in readme


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no run is published here")
def test_the_published_run_is_small_and_hides_faces():
    assert json.loads((PUBLISHED / "run.json").read_text())["parameters"]["show_faces"] is False
    weights = [path.stat().st_size for path in PUBLISHED.rglob("*.safetensors")]
    assert weights and sum(weights) <= 60_000_000
    kinds = {path.suffix for path in PUBLISHED.rglob("*") if path.is_file()}
    assert kinds <= {
        *".html .css .js .svg .png .ttf .woff2 .txt .csv .json .yaml .md .safetensors .onnx".split()
    }
