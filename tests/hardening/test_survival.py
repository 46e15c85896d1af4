"""The command on the real notebooks, killed at random moments and on a full disk.

`make test` kills the whole report once; the slow tests kill a run of three notebooks thirty times.
"""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ONE_WORKER, finished, may, report_process, wait_until_ended
from safetensors.torch import load_file

from utkcmp.report.plan import NOTEBOOKS

SMALL = dict(run="small", n_faces=60, image_size=16, show_faces=False, seed=42, eval_pairs=60)
SMALL |= dict(backbone="mobilenet_v2", epochs=2, batch_size=16, ladder_faces=64, ladder_seeds=1)
SMALL |= dict(tune_models=["SiameseResNet"], head_models=[], num_samples=2, max_num_epochs=1)
SMALL |= dict(tune_data_size=32, best_epochs=1, data_size=64, resamples=100, **ONE_WORKER)
SMALL |= dict(search_space={"resnet_type": ["mobilenet_v2"], "batch_size": [16]})
ONLY = ["--only", "04_siamese", "--only", "07_tuning"]  # and their dependencies
# When a run is killed: at most so many seconds after this file has appeared.
PHASES = {
    "indexing": ("cache", 2.0),
    "caching": ("cache/*images-*.npy", 1.0),
    "training": ("small/models/siamese/last.ckpt", 1.0),
    "searching": ("small/tuning/ray/*/search", 8.0),
    "rendering": ("small/.report.*", 0.5),
}


def started(outputs: Path, *only: str, around=()) -> subprocess.Popen:
    return report_process(outputs, SMALL, *(only or ONLY), around=around)


def results(outputs: Path) -> bytes:
    """results.csv without the column of seconds."""
    table = pd.read_csv(outputs / "small/results.csv", dtype=str)
    return table.drop(columns="seconds").to_csv(index=False).encode()


def trials(outputs: Path) -> pd.DataFrame:
    """The results of the search without names and times."""
    table = pd.read_csv(outputs / "small/tuning/SiameseResNet.csv")
    return table.drop(columns=["trial", "total_time"]).sort_values("lr", ignore_index=True)


READERS = {
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": pd.read_csv,
    ".npy": lambda path: np.load(path),
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".safetensors": load_file,
    ".ckpt": lambda path: torch.load(path, weights_only=True),
    ".ipynb": lambda path: nbformat.read(path, 4),
    ".html": lambda path: path.read_text().rindex("</html>"),
}


def read_all(outputs: Path) -> int:
    """Read every file that a killed run left, except hidden ones, Ray's and partial notebooks;
    returns their number.
    """
    paths = [path for path in outputs.rglob("*") if path.suffix in READERS]
    paths = [path.relative_to(outputs) for path in paths if "ray" not in path.parts]
    paths = [path for path in paths if not any(part[0] == "." for part in path.parts)]
    paths = [path for path in paths if not path.name.endswith(".partial.ipynb")]
    for path in paths:
        READERS[path.suffix](outputs / path)
    return len(paths)


def kill(outputs: Path, phase: str, moments: random.Random) -> bool:
    """Start the command and kill it in a phase; returns whether it was still running."""
    mark, longest = PHASES[phase]
    process = started(outputs)
    while process.poll() is None and not list(outputs.glob(mark)):
        time.sleep(0.002)
    time.sleep(moments.uniform(0, longest))
    killed = process.poll() is None
    if killed:
        (os.killpg if moments.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
    status, _, said = finished(process)
    assert status == (-signal.SIGKILL if killed else 0), said
    wait_until_ended(outputs)
    return killed


def survive(outputs: Path, phases, seed: int, unbroken: Path) -> int:
    """Kill a run once in each phase, then let it finish; returns the number of kills."""
    moments, kills = random.Random(seed), 0
    for phase in phases:
        kills += kill(outputs, phase, moments)
        read_all(outputs)
    status, _, said = finished(started(outputs))
    assert (status, said) == (0, "")
    assert results(outputs) == results(unbroken)
    pd.testing.assert_frame_equal(trials(outputs), trials(unbroken))
    assert read_all(outputs) == read_all(unbroken)
    hidden = {path.name for path in outputs.rglob(".*")}
    assert hidden == {".lock", ".sample.json"}  # nothing half-written is left
    return kills


needs_mounts = pytest.mark.skipif(
    not may("unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"),
    reason="mounting is not permitted here",
)


def with_mounts(*mounts: str) -> list[str]:
    """A wrapper that runs a command with these mounts, in a private namespace."""
    return ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """The outputs of an uninterrupted run."""
    outputs = tmp_path_factory.mktemp("unbroken") / "outputs"
    status, shown, said = finished(started(outputs))
    assert (status, said) == (0, ""), shown
    return outputs


def test_a_killed_report_goes_on_and_does_nothing_twice(whole_report):
    """The ``whole_report`` fixture kills it."""
    assert whole_report.read_record()["executed"] == dict.fromkeys(NOTEBOOKS, 1)
    assert read_all(whole_report.folder) > 50
    hidden = {path.name for path in whole_report.folder.rglob(".*")}
    assert hidden <= {".lock", ".nojekyll"}  # nothing half-written is left


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_a_run_survives_a_kill_in_each_phase(unbroken, tmp_path, seed):
    assert survive(tmp_path / "outputs", PHASES, seed, unbroken) >= len(PHASES) - 1


@pytest.mark.slow
@needs_mounts
def test_what_a_full_disk_stopped_goes_on_with_more_room(unbroken, tmp_path):
    """The disk is too small for a checkpoint, then grows: the results are the usual ones."""
    outputs, saved = tmp_path / "outputs", tmp_path / "saved"
    room = outputs.parent / "small.sh"
    room.write_text(
        f'"$@"; echo $?; ls -a {outputs}/small {outputs}/small/models/siamese\n'
        f"mount -o remount,size=500m {outputs}\n"
        f'"$@"; echo $?; cp -r {outputs} {saved}\n'
    )
    around = [*with_mounts(f"mount -t tmpfs -o size=8m none {outputs}"), "sh", str(room)]
    status, shown, said = finished(started(outputs, "--only", "04_siamese", around=around))
    first, second = shown.split("\n1\n")  # exit status of the first call
    assert "02_split" in first and "04_siamese" not in first
    assert status == 0 and second.splitlines()[-1] == "0" and ".last" not in second
    assert second.count("up to date") == 1
    assert len(said.splitlines()) == 1
    assert "04_siamese: no space left on device" in said and "resumes from here" in said
    assert results(saved) == results(unbroken)


@needs_mounts
@pytest.mark.parametrize(
    ("mount", "expect"),
    [
        ("mount -t tmpfs -o size=64k none {}", "no space left on device"),
        ("mount --bind {0} {0} && mount -o remount,bind,ro {0}", "read-only file system"),
    ],
)
def test_a_place_that_takes_no_file_is_one_sentence(tmp_path, mount, expect):
    outputs = tmp_path / "outputs"
    around = with_mounts(mount.format(outputs))
    status, shown, said = finished(started(outputs, "--only", "02_split", around=around))
    assert (status, shown) == (1, "")
    assert len(said.splitlines()) == 1 and f"{outputs}" in said and expect in said
