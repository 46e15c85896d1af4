"""The package as others install it: a wheel, used from a folder of its own."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution

import pytest

from utkcmp import __version__
from utkcmp.run import PROJECT

BUILT = ("utkcmp", "notebooks", "params", "outputs/utkface")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what a wheel of this project holds."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in BUILT:
        if (PROJECT / name).exists():
            shutil.copytree(PROJECT / name, source / name)
    for name in FILES:
        shutil.copyfile(PROJECT / name, source / name)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, target], cwd=source, check=True, stdout=-1)
    wheel = next(target.glob("*.whl"))
    zipfile.ZipFile(wheel).extractall(target)
    return target


def run(installed, folder, *words) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    environment.pop("UTKCMP_OUTPUTS", None)
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_wheel_holds_what_lies_beside_the_code(installed):
    about = PathDistribution(next(installed.glob("utkcmp-*.dist-info")))
    assert about.version == __version__ and about.metadata["License-Expression"] == "MIT"
    commands = {one.name: one.load() for one in about.entry_points}
    assert commands.keys() == {"utkcmp-compare", "utkcmp-report"} and all(
        map(callable, commands.values())
    )
    sources = {path.relative_to(PROJECT / "utkcmp") for path in (PROJECT / "utkcmp").rglob("*")}
    code = {path for path in sources if path.suffix in (".py", ".csv", ".j2", ".css", ".bib")}
    assert {path for path in code if not (installed / "utkcmp" / path).is_file()} == set()
    beside = {path.name for path in (installed / "utkcmp/shipped").rglob("*")}
    assert {"04_siamese.ipynb", "quick.yaml"} <= beside


@pytest.mark.skipif(not (PROJECT / "outputs/utkface").exists(), reason="no run is published here")
def test_it_compares_from_any_folder_with_the_published_model(installed, tmp_path):
    code = "from utkcmp.compare.predictor import find_model; print(find_model())"
    found = run(installed, tmp_path, "-c", code)
    assert found.stdout.startswith(str(installed / "utkcmp/shipped/outputs/utkface/models"))
    face = "from utkcmp.data.drawing import draw_face, DrawnFace; import numpy as np\n"
    face += "for n in (1, 2):\n"
    face += "    draw_face(DrawnFace(np.random.default_rng(n))).save(f'{n}.png')"
    made = run(installed, tmp_path, "-c", face)
    assert made.returncode == 0, made.stderr
    answer = run(installed, tmp_path, "-m", "utkcmp.compare", "1.png", "2.png", "--aligned")
    assert answer.returncode == 0 and "older" in answer.stdout, answer.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"1.png", "2.png"}


def test_its_report_knows_the_notebooks_and_writes_below_the_current_folder(installed, tmp_path):
    words = ["-m", "utkcmp.report", "-f", "params/quick.yaml", "-p", "epochs=0"]
    said = run(installed, tmp_path, *words)
    assert (said.returncode, said.stdout) == (1, "") and "epochs = 0" in said.stderr
    code = "from utkcmp.report import plan; from utkcmp import run; print(run.outputs_root())\n"
    code += "plan.read_notebooks(plan.FOLDER, plan.NOTEBOOKS)\nprint(run.git_commit())"
    said = run(installed, tmp_path, "-c", code)
    assert said.stdout.splitlines() == [str(tmp_path / "outputs"), "None"], said.stderr
