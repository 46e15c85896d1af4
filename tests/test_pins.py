"""What is installed for tests lies within what the package asks for, and is pinned throughout."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from utkcmp.run import PROJECT

METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
EXTRAS = METADATA["optional-dependencies"]
DIRECT = [Requirement(one) for some in (METADATA["dependencies"], *EXTRAS.values()) for one in some]
DIRECT = [one for one in DIRECT if one.name != "utkcmp"]  # an extra that includes others
PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[a-z,]+\])?==([^\s;]+)")
LINES = [line for line in (PROJECT / "requirements.txt").read_text().splitlines() if line.strip()]
PINS = dict(PIN.match(line).groups() for line in LINES if PIN.match(line))


@pytest.mark.parametrize("asked", DIRECT, ids=str)
def test_a_pin_lies_in_the_range_that_is_asked_for(asked):
    assert asked.specifier.contains(PINS[asked.name.lower()])
    assert asked.marker or str(asked.specifier), "a range says from which version on"


def test_requirements_are_pinned_throughout():
    assert [one for one in LINES if not one.lstrip().startswith("#") and not PIN.match(one)] == []


def test_ranges_leave_room_and_the_package_needs_no_report():
    assert not any("==" in str(one.specifier) for one in DIRECT)
    needed = {Requirement(line).name for line in METADATA["dependencies"]}
    assert not needed & {"ray", "jupyterlab", "papermill", "sphinx", "pytest"}


def test_conda_gets_the_same():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert python == "python=" + METADATA["requires-python"].removeprefix(">=")
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}


def test_the_citation_is_of_this_version():
    from utkcmp import __version__

    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (__version__, METADATA["license"])
