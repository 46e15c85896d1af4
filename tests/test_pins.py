"""pyproject.toml, requirements.txt and environment.yml must pin the same versions."""

import re
import tomllib

import yaml

from utkcmp.run import PROJECT

PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[a-z,]+\])?==([^\s;]+)")


def pins(lines) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in lines:
        if match := PIN.match(line.strip()):
            found.setdefault(match[1].lower(), set()).add(match[2])
    return found


def direct() -> dict[str, set[str]]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["test"]
    assert len(pins(lines)) == len(lines), "every direct dependency is pinned with =="
    return pins(lines)


def test_optional_extras_are_pinned():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    for extra in project["optional-dependencies"].values():
        assert len(pins(extra)) == len(extra)


def test_requirements_hold_every_direct_pin():
    locked = pins((PROJECT / "requirements.txt").read_text().splitlines())
    assert {name: locked.get(name) for name in direct()} == direct()


def test_requirements_are_pinned_throughout():
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    named = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert [line for line in named if not PIN.match(line)] == []


def test_environment_holds_the_same_direct_pins():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    lines = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pins(lines) == direct()


def test_python_is_the_same_everywhere():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    least = project["requires-python"].removeprefix(">=")
    assert f"python={least}" in environment["dependencies"]
