"""No sentence of a notebook contains a typed result: numbers in the text come from the data."""

import ast
import re

import nbformat
import pytest
from conftest import WHOLE

from utkcmp.run import PROJECT, Run

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
FIGURE = re.compile(r"(?<![\w.])[-+−±]?\d+(?:\.\d+(?:e[-+]\d+)?|\s?%)")
# Numbers that are not results: the confidence level, an example, a version.
MEANT = re.compile(r"\b95\s?%|\b80\s?%|\b3\.0\.4\b")
ALL = re.compile(r"\b(?:100|0)\.0%")  # or none: results that different data may share
# Numbers that show that a sentence states results: decimals, percentages, counts of pairs.
DATA = re.compile(r"\d+\.\d+|\d+\s?%|\d,\d{3}")


def typed(text: str) -> list[str]:
    return FIGURE.findall(MEANT.sub("", text))


def test_a_typed_result_would_be_found():
    assert typed("reaches 0.871, or 87 %, or 87% of 5,000") == ["0.871", "87 %", "87%"]
    assert typed("a 95 % interval, {:.1%} and .3f of 100 faces, see `v1.2`") == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_result_is_typed_into_a_notebook(path):
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            assert typed(cell.source) == [], cell.source
            continue
        for text in strings(cell.source):
            assert typed(text) == [], text


def test_no_result_is_typed_into_a_reading():
    texts = strings((PROJECT / "utkcmp/report/sentences.py").read_text(encoding="utf-8"))
    assert len(texts) > 50
    assert [text for text in texts if typed(text)] == []


def strings(source: str) -> list[str]:
    """The string literals of code without docstrings; of f-strings, the literal parts."""
    tree = ast.parse(source)
    kinds = ast.Module | ast.FunctionDef | ast.ClassDef
    documented = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    docs = {id(node.body[0].value) for node in documented if ast.get_docstring(node) is not None}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [n.value for n in constants if isinstance(n.value, str) and id(n) not in docs]


@pytest.mark.slow
def test_other_data_make_other_sentences(whole_report):
    """On other faces, every sentence of the notebooks that states a result changes."""
    from utkcmp.report.runner import make_report

    faces = {"data": "embedded", "n_faces": 180, "seed": 7}
    network = {"hidden_layers": [8], "eval_pairs": 61, "num_samples": 2}  # also stated in sentences
    paths = sorted((whole_report.folder / "notebooks").glob("*.ipynb"))
    make_report(WHOLE | faces | network | {"run": "other"}, only=[path.stem for path in paths])
    compared = 0
    for path in paths:
        executed = [
            nbformat.read(run.folder / "notebooks" / path.name, 4)
            for run in (whole_report, Run("other"))
        ]
        for one, other in zip(*map(sentences, executed), strict=True):
            if any(DATA.search(ALL.sub("", MEANT.sub("", text))) for text in (one, other)):
                compared += 1
                assert one != other, f"{path.stem} says the same of other data: {one}"
    assert compared > 30


def sentences(notebook) -> list[str]:
    """The Markdown output of each code cell, an empty string where there is none."""
    return [
        "\n".join(
            output.data["text/markdown"]
            for output in cell.outputs
            if "text/markdown" in output.get("data", {})
        )
        for cell in notebook.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]
