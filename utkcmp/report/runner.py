"""Run the notebooks by papermill, only those that something changed for, and render the report."""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from utkcmp.data.archives import data_source
from utkcmp.data.index import fingerprint, index_faces
from utkcmp.files import atomic
from utkcmp.params import EMBEDDED, WEIGHTS, Params, check
from utkcmp.report.book import render_book
from utkcmp.report.execute import ProgressLine, execute
from utkcmp.report.plan import (
    FOLDER,
    NOTEBOOKS,
    ReportError,
    Step,
    check_amounts,
    check_parameters,
    chosen,
    defaults,
    plan,
    read_notebooks,
    up_to_date,
    written,
)
from utkcmp.run import Run, find_weights, outputs_root

LOCK_WAIT = 5.0  # seconds; a kernel outlives a killed run by at most about one
ENVIRONMENT_DATA = "$UTKFACE"
GOES_ON = "the same command goes on from here"
INTERRUPTED = f"interrupted: {GOES_ON}"
DATA_NAMES = ("data", "n_faces", "seed")


def read_data(params: Params) -> pd.DataFrame:
    """The index of the faces, read before any notebook runs, so that bad data is found at once.

    Sets the environment variable that the notebooks' ``data`` then names: no path of this machine
    is written into a notebook. Raises DataError or ParameterError with one sentence.
    """
    source = data_source(params)
    if params.data != EMBEDDED:
        os.environ[ENVIRONMENT_DATA[1:]] = str(source.resolve())
    return index_faces(source, cache=outputs_root() / "cache", progress=False)


def run_step(run: Run, step: Step, progress: ProgressLine, keep_open: tuple[int, ...] = ()) -> None:
    """Run one notebook unless it is up to date; leave the executed notebook and its stamp."""
    if up_to_date(run, step):
        progress.say(step.name, "up to date")
        return
    record = step.record(run)
    before, started = _files(run.folder), time.monotonic()
    earlier = [name for name in written(record) if name in before]
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    for left in record.parent.glob(f".{step.name}.*"):
        left.unlink()  # half written by a process that was killed
    with progress.step(step.name):
        target = record.with_suffix(".ipynb")
        execute(step.path, target, step.parameters, progress.detail, keep_open)
    seconds = round(time.monotonic() - started, 1)
    changed = [name for name, when in _files(run.folder).items() if before.get(name) != when]
    times = run.read_record().get("executed", {}).get(step.name, 0)
    run.record("seconds", **{step.name: seconds})
    run.record("executed", **{step.name: times + 1})
    with atomic(record) as temporary:
        content = {"stamp": step.stamp, "seconds": seconds, "wrote": sorted({*earlier, *changed})}
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _files(folder: Path) -> dict[str, int]:
    ours = ("notebooks", "report", "run.json", ".lock")
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in ours
    }


@contextlib.contextmanager
def locked(folder: Path, wait: float | None = None) -> Iterator[int]:
    """Hold a run's folder for this process, as long as it or a kernel of it lives.

    The system releases the lock however the process ends. Raises ReportError if another process
    still holds it after ``wait`` seconds (LOCK_WAIT by default).
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + (LOCK_WAIT if wait is None else wait)
    with open(folder / ".lock", "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ReportError(
                        f"another report is being made in {folder}: wait for it to end, "
                        "or give this one its own folder with -p run=name"
                    ) from None
                time.sleep(0.1)
        yield file.fileno()


def make_report(
    given: dict[str, Any],
    *,
    only: Iterable[str] = (),
    execute_notebooks: bool = True,
    command: dict[str, str] | None = None,
    folder: Path = FOLDER,
    graph: Mapping[str, tuple[str, ...]] = NOTEBOOKS,
    progress: ProgressLine | None = None,
) -> Path:
    """Run what is not up to date, then render the book.

    given: parameters; only: notebooks to run, with what they depend on, instead of all; command:
    what the user asked for, kept in run.json. Returns the path of index.html.
    """
    progress = progress or ProgressLine()
    given = {"run": Params.model_fields["run"].default} | given
    run = Run(check(given).run)
    notebooks = read_notebooks(folder, graph)
    known = {name: defaults(notebook) for name, notebook in notebooks.items()}
    effective = check_parameters(given, known)
    if effective.get("weights") not in (None, *WEIGHTS):
        find_weights(effective["weights"])
    names = chosen(only, graph)
    with contextlib.ExitStack() as stack:
        lock = None
        if run.folder.exists():
            lock = stack.enter_context(locked(run.folder))
        if execute_notebooks:
            with progress.step("faces"):
                faces = read_data(
                    check({name: effective[name] for name in DATA_NAMES if name in effective})
                )
            check_amounts(faces, run, given, {name: known[name] for name in names})
            if effective.get("data", EMBEDDED) != EMBEDDED:
                given["data"] = effective["data"] = ENVIRONMENT_DATA
            if lock is None:  # only now: bad data leaves no folder
                lock = stack.enter_context(locked(run.folder))
            data = hashlib.sha256(faces.to_csv(index=False).encode()).hexdigest()
            steps = plan({name: notebooks[name] for name in names}, graph, given, data, folder)
            if not all(up_to_date(run, step) for step in steps):
                valid = int((faces.status == "ok").sum())
                run.record("parameters", **effective)
                run.record("data", fingerprint=fingerprint(faces), faces=valid, files=len(faces))
                run.record("command", **(command or {}))
            for step in steps:
                run_step(run, step, progress, (lock,))
        with progress.step("report"):
            return render_book(run)
