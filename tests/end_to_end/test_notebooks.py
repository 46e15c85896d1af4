"""What every notebook must be: stored clean, with parameters that exist, no logic of its own."""

import ast
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest

from utkcmp.report import plan
from utkcmp.run import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
NAMES = list(plan.NOTEBOOKS)
# What no second run says again: times, where from, the addresses of styled tables.
ONCE = re.compile(r"seconds|minutes|\d ?m?s\b|earlier split|text/html")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def test_all_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@every_notebook
def test_stored_without_outputs(path):
    for cell in cells(path, "code"):
        assert cell.outputs == [] and cell.execution_count is None


@every_notebook
def test_no_cell_is_empty_and_no_code_is_commented_out(path):
    for cell in nbformat.read(path, 4).cells:
        assert cell.source.strip()
    for cell in cells(path, "code"):
        assert not re.search(r"^\s*# ?\w+ = |^\s*# ?\w+\(", cell.source, re.M)


@every_notebook
def test_opens_with_a_title_a_takeaway_and_what_is_read_and_written(path):
    first = nbformat.read(path, 4).cells[0].source
    assert first.startswith("# ") and "\n> " in first
    assert all(f"**{word}**" in first for word in ("Goal", "Reads", "Writes"))


@every_notebook
def test_closes_with_findings_computed_from_results(path):
    headings = [c.source for c in cells(path, "markdown") if c.source.startswith("## ")]
    assert headings[-1].splitlines()[0] == "## What we found"
    last = nbformat.read(path, 4).cells[-1]
    assert last.cell_type == "code" and re.search(r"\{[^}]+\}", last.source)


@every_notebook
def test_every_figure_is_followed_by_a_reading(path):
    all_cells = nbformat.read(path, 4).cells
    for cell, after, *_ in zip(all_cells, all_cells[1:], all_cells[2:], strict=False):
        if cell.cell_type == "code" and cell.source.rstrip().endswith(");"):
            read = ("Markdown(", "report.shown_table(", ".round(")
            assert after.cell_type == "markdown" or any(one in after.source for one in read), (
                cell.source
            )


@every_notebook
def test_no_result_is_typed_into_prose(path):
    for cell in cells(path, "markdown"):
        assert not re.search(r"\b0\.\d{2,}\b", cell.source), cell.source


@pytest.mark.parametrize("peer", [None, "HSE-FaceRes"])
@pytest.mark.parametrize("pretrained", [{}, {"epochs": 5}])
def test_what_is_switched_off_is_said_in_one_line(peer, pretrained):
    transfer = next(path for path in NOTEBOOKS if path.stem.startswith("06"))
    (cell,) = [
        c.source for c in cells(transfer, "code") if "uses no pretrained network" in c.source
    ]
    known = {"peer": peer, "p": SimpleNamespace(pretrained=pretrained), "Markdown": str}
    known |= {"report": SimpleNamespace(describe_history=str), "fitted": SimpleNamespace(history=1)}
    body, last = ast.parse(cell).body[:-1], ast.parse(cell).body[-1]
    exec(compile(ast.Module(body, []), transfer.name, "exec"), known)
    said = eval(compile(ast.Expression(last.value), transfer.name, "eval"), known)
    assert "\n" not in said and said.startswith("1 ") == bool(pretrained)
    assert ("make weights" in said) == (peer is None)
    assert ("`pretrained` is empty" in said) == (not pretrained)


def test_a_name_is_defined_in_one_notebook_only():
    found: dict[str, str] = {}
    for path in NOTEBOOKS:
        for cell in cells(path, "code"):
            for node in ast.walk(ast.parse(cell.source.replace("%", "#"))):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    assert node.name not in found, f"{node.name} in {path} and {found[node.name]}"
                    found[node.name] = path.stem


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "02_split" else pytest.mark.slow) for name in NAMES],
)
def test_nbval_executes_it_again_and_it_says_the_same(whole_report, marked_faces, tmp_path, name):
    """As the report left it, in its run: what was trained is read, and texts are the same."""
    executed = nbformat.read(whole_report.folder / "notebooks" / f"{name}.ipynb", 4)
    checked = 0
    for cell in executed.cells:
        shown = [kind for one in cell.get("outputs", []) for kind in one.get("data", {})]
        if "text/markdown" in shown and not ONCE.search(str(cell.outputs)):
            cell.metadata.tags = [*cell.metadata.get("tags", []), "nbval-check-output"]
            checked += 1
    nbformat.write(executed, tmp_path / f"{name}.ipynb")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "."],
        env=os.environ | {"UTKFACE": str(marked_faces), "PYTEST_ADDOPTS": "-c /dev/null"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout
    assert checked
