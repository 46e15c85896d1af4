"""The house: each room imports only from rooms to its left, nothing in a circle, nothing heavy."""

import ast
import importlib
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from utkcmp.run import PROJECT

PACKAGE = PROJECT / "utkcmp"
FILES = sorted(PACKAGE.rglob("*.py"))
FOUNDATION = {"files", "params", "processes", "run"}  # single files, which all rooms may import
ROOMS = ["plots", "data", "models", "evaluation", "training"]
LEFT = {room: {*FOUNDATION, *ROOMS[:at]} for at, room in enumerate(ROOMS)}
LEFT |= {"tuning": {*FOUNDATION, *ROOMS}, "compare": {*FOUNDATION, *ROOMS}}
LEFT |= {"report": {*FOUNDATION, *ROOMS, "tuning", "compare"}}


def name_of(path: Path) -> str:
    """``utkcmp.data.pairs`` of utkcmp/data/pairs.py, ``utkcmp.data`` of its ``__init__``."""
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """The files of this package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: expected imports by full names"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & MODULES.keys()) or {node.module}
    return (found & MODULES.keys()) - {"utkcmp"}


def test_every_file_has_a_place():
    places = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert places == {"__init__", *FOUNDATION, *LEFT}


@pytest.mark.parametrize("room", LEFT)
def test_a_room_imports_only_from_rooms_to_its_left(room):
    for path in (PACKAGE / room).rglob("*.py"):
        rooms = {name.split(".")[1] for name in imports(path)}
        assert rooms <= {room, *LEFT[room]}, path


def test_no_import_goes_in_a_circle():
    graph = {name: imports(path) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


LIGHT = ["params", "report.plan", "report.sentences", "report.command", "compare.command", *LEFT]
HEAVY = ["torch", "lightning", "ray", "onnxruntime", "tensorboard"]
LOAD = """
import importlib, sys
for name in sys.argv[2].split():
    importlib.import_module(f"utkcmp.{name}")
    loaded = [heavy for heavy in sys.argv[1].split() if heavy in sys.modules]
    assert not loaded, f"importing utkcmp.{name} loads {', '.join(loaded)}"
"""


def test_nothing_heavy_is_loaded_before_it_is_used():
    command = [sys.executable, "-c", LOAD, " ".join(HEAVY), " ".join(LIGHT)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_threads_that_wait_do_not_spin_however_python_is_started():
    """The variable is there before PyTorch is loaded, and what the user has set stays."""
    code = "import os, sys, utkcmp\nprint(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    for given, expect in ({}, "passive False\n"), ({"OMP_WAIT_POLICY": "active"}, "active False\n"):
        clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        ran = subprocess.run([sys.executable, "-c", code], env=clean | given, stdout=-1, text=True)
        assert ran.stdout == expect


@pytest.mark.parametrize("room", LEFT)
def test_every_public_name_of_a_room_is_there(room):
    module = importlib.import_module(f"utkcmp.{room}")
    assert module.__all__ and all(hasattr(module, name) for name in module.__all__)


# What reads as a translation, or names what this project does not: whole words, in any case.
UNWANTED = """the seed's|seed.md|the seed text|course projects'|make anew|a search that errs"""
TEXTS = ["README.md", "params/*.yaml", "utkcmp/**/*.py", "utkcmp/**/*.j2", "notebooks/*.ipynb"]


def test_no_unwanted_words_come_back():
    found = [
        f"{path.relative_to(PROJECT)}: {match[0]}"
        for pattern in TEXTS
        for path in PROJECT.glob(pattern)
        for match in re.finditer(rf"\b({UNWANTED})\b", path.read_text(encoding="utf-8"), re.I)
    ]
    assert not found
