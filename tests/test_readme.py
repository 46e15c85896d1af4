"""What README and docs/ say is there is there."""

import re

import pytest

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
