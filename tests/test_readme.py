"""What README and docs/ say is there is there."""

import os
import re
import subprocess

import pytest
import yaml

from utkcmp.params import Params
from utkcmp.report.plan import NOTEBOOKS
from utkcmp.run import PROJECT

PAGES = ["README.md", *(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md"))]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (PROJECT / page).read_text(encoding="utf-8")
    places = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [one for one in places if not (PROJECT / page).parent.joinpath(one).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    text = (PROJECT / page).read_text(encoding="utf-8")
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"(?m)^([a-z-]+):", makefile))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.M)) <= targets
    assert set(re.findall(r"params/[\w-]+\.yaml", text)) <= {
        f"params/{path.name}" for path in (PROJECT / "params").iterdir()
    }
    for name in re.findall(r"(?:-p |SET=\"|^\w+ )(\w+)=", text):
        assert name in Params.model_fields


def test_the_map_is_the_tree():
    tree = re.search(r"```\n(notebooks/.*?)```", README, re.S)[1]
    rooms = {path.parent.name for path in PROJECT.glob("utkcmp/*/__init__.py")}
    assert set(re.findall(r"(?m)^  (\w+)/", tree)) == rooms
    for name in re.findall(r"(?m)^(\w+)/", tree):
        assert (PROJECT / name).is_dir()
    for name in re.findall(r"\w+\.py", tree):
        assert (PROJECT / "utkcmp" / name).is_file()
    assert all(f"`{name}`" in README for name in NOTEBOOKS)
    assert all(path.stem in README for path in (PROJECT / "params").iterdir())


def test_it_is_a_tour():
    prose = re.sub(r"<!-- published.*?<!-- end -->|```.*?```", "", README, flags=re.S)
    assert len(prose.split()) < 1200


def test_python_in_it_compiles():
    for code in re.findall(r"```python\n(.*?)```", README, re.S):
        compile(code, "README.md", "exec")


def test_an_example_that_sets_something_goes_to_a_run_of_its_own():
    """Tried after a report, it overwrites nothing of it."""
    runs = {yaml.safe_load(path.read_text()).get("run") for path in PROJECT.glob("params/*.yaml")}
    given = [
        re.search(r"(?:-p run |SET=.*?\brun=)(\w+)", line)
        for line in re.findall(r"(?m)^(?:make report.*SET=|\S+/papermill ).*", README)
    ]
    assert len(given) == 3 and all(given)
    assert not {one[1] for one in given} & (runs | {"lab"})


@pytest.mark.parametrize(
    ("active", "expect"),
    [
        ({}, ".venv/bin/ruff"),
        ({"VIRTUAL_ENV": "/mine"}, "/mine/bin/ruff"),
        ({"CONDA_PREFIX": "/conda", "CONDA_DEFAULT_ENV": "mine"}, "/conda/bin/ruff"),
        ({"CONDA_PREFIX": "/conda", "CONDA_DEFAULT_ENV": "base"}, ".venv/bin/ruff"),
    ],
    ids=["none", "virtual", "conda", "conda's base"],
)
def test_make_uses_the_environment_that_is_active(active, expect):
    names = ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "MAKEFLAGS")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    say = ["make", "-n", "--no-print-directory", "lint", "READY="]
    ran = subprocess.run(say, cwd=PROJECT, env=clean | active, capture_output=True, text=True)
    assert ran.stdout.split()[0] == expect, ran.stderr
