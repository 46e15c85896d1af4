"""Run the outdated notebooks with papermill and render the report."""

import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import psutil

from utkcmp.data.archives import data_source
from utkcmp.data.index import fingerprint, index_faces
from utkcmp.files import write_json
from utkcmp.params import EMBEDDED, Params, check
from utkcmp.report import plan
from utkcmp.report.book import render_book
from utkcmp.report.execute import WIDTH, clock, execute
from utkcmp.report.plan import FOLDER, NOTEBOOKS, Notebook, ReportError, Step, check_amounts
from utkcmp.run import Run, git_commit, outputs_root

LOCK_WAIT = 1.0  # seconds
LOOKS = 3.0  # seconds between two readings of the processor time
ENVIRONMENT_DATA = "$UTKFACE"
DECIDES = ("its parameters", "the faces")  # whether finished trainings are taken over
NOT_RESULTS = ("notebooks", "report", "run.json", ".lock")  # in a run's folder


def say(name: str, *parts: str) -> None:
    print("   ".join([f"{name:{WIDTH}}", *parts]), flush=True)


def read_data(params: Params) -> pd.DataFrame:
    """Index the faces before any notebook runs, so that bad data is found at once.

    Also puts the path of the data into ``$UTKFACE``, so that no notebook contains it. Raises
    DataError or ParameterError with one sentence.
    """
    source = data_source(params)
    if params.data != EMBEDDED:
        os.environ[ENVIRONMENT_DATA[1:]] = str(source.resolve())
    return index_faces(source, cache=outputs_root() / "cache", progress=sys.stderr.isatty())


def run_step(run: Run, step: Step) -> None:
    """Run one notebook unless it is up to date; store the executed one and a record beside it.

    The record holds its inputs, the files it wrote, the time it finished, the commit, and the clock
    and processor seconds spent; the last two include those of earlier executions with the same
    parameters and faces, whose trainings it takes over.
    """
    if not plan.outdated(run, step):
        say(step.name, "up to date")
        return
    path, earlier = plan.record_path(run, step.name), plan.read_record(run, step.name)
    for left in path.parent.glob(f".{step.name}.*"):
        left.unlink()  # half-written by a killed process
    record = {"inputs": step.inputs, "parameters": step.parameters, "commit": git_commit() or ""}
    record |= {"spent": [0, 0], "since": 0, "wrote": earlier.get("wrote", []), "finished": ""}
    known = earlier.get("inputs", {})
    if all(known.get(name) == step.inputs[name] for name in DECIDES):
        record["spent"] = earlier["spent"]
        commits = [*str(earlier.get("commit") or "").split(", "), record["commit"]]
        record["commit"] = ", ".join(dict.fromkeys(filter(None, commits)))
    if known == step.inputs and not earlier["finished"]:
        record["since"] = earlier["since"]
    write_json(record, path)
    record["since"] = record["since"] or path.stat().st_mtime_ns
    with spending(record, path):
        execute(step.path, path.with_suffix(".ipynb"), step.parameters)
    wrote = {name for name in record["wrote"] if (run.folder / name).exists()}
    for file in (one for one in run.folder.rglob("*") if one.is_file()):
        name = file.relative_to(run.folder).as_posix()
        if name.split("/")[0] not in NOT_RESULTS and file.stat().st_mtime_ns >= record["since"]:
            wrote.add(name)
    record["wrote"] = sorted(wrote)
    record["finished"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    facts = dict(zip(("seconds", "processor_seconds"), record["spent"], strict=True))
    facts |= {"commits": record["commit"], "finished": record["finished"]}
    facts["executed"] = run.read_record().get("executed", {}).get(step.name, 0) + 1
    for section, fact in facts.items():
        run.record(section, **{step.name: fact})
    write_json(record, path)
    seconds, processors = map(clock, record["spent"])
    say(step.name, seconds, f"({processors} of processor time)")


@contextlib.contextmanager
def spending(record: dict[str, Any], path: Path) -> Iterator[None]:
    """Add clock and processor seconds of a block to ``record["spent"]``, and save it regularly.

    Processor seconds are those of all descendants, as last seen: the system's count omits Ray's.
    """
    before, started, done = record["spent"], time.monotonic(), threading.Event()

    def watch() -> None:
        seen: dict[psutil.Process, float] = {}
        while True:
            ended = done.wait(LOOKS)
            for one in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    seen[one] = sum(one.cpu_times()[:2])  # user and system
            spent = time.monotonic() - started, sum(seen.values())
            record["spent"] = [round(a + b, 1) for a, b in zip(before, spent, strict=True)]
            with contextlib.suppress(OSError):  # a full disk is reported by the notebook
                write_json(record, path)
            if ended:
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process. Raises ReportError if another one holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", timeout=LOCK_WAIT)
    try:
        with warnings.catch_warnings(action="ignore"):  # that a file system has no locks
            lock.acquire()
    except filelock.Timeout:
        raise ReportError(
            f"another report is being made in {folder}: wait for it to end, or give this one its "
            "own folder with -p run=name"
        ) from None
    except OSError:
        pass  # the file system may not support locks
    try:
        yield
    finally:
        lock.release()


def make_report(
    given: dict[str, Any],
    *,
    only: Iterable[str] = (),
    execute_notebooks: bool = True,
    command: dict[str, str] | None = None,
    folder: Path = FOLDER,
    graph: Mapping[str, Notebook] = NOTEBOOKS,
) -> Path:
    """Run the notebooks that are not up to date, then render the report.

    given: parameters; only: notebooks to run, with their dependencies, instead of all; command: the
    user's command, recorded in run.json. Returns the path of index.html.
    """
    notebooks = plan.read_notebooks(folder, graph)
    effective = plan.check_parameters(given, notebooks)
    given = {"run": effective["run"]} | given
    run, names = Run(effective["run"]), plan.chosen(only, graph)
    with contextlib.ExitStack() as stack:
        if run.folder.exists():
            stack.enter_context(locked(run.folder))
        if execute_notebooks:
            started, new = time.monotonic(), not run.folder.exists()
            faces = read_data(check(effective))
            used = {one for name in names for one in plan.uses(graph[name])}
            check_amounts(faces, run, given, used)
            say("faces", clock(time.monotonic() - started))
            if effective["data"] != EMBEDDED:
                given["data"] = effective["data"] = ENVIRONMENT_DATA
            if new:  # only now, so that bad data leaves no folder
                stack.enter_context(locked(run.folder))
            index = plan.digest(faces.to_csv(index=False))
            chosen = {name: notebooks[name] for name in names}
            steps = plan.plan(chosen, graph, given, index, folder)
            if any(plan.outdated(run, step) for step in steps):
                run.record("parameters", **effective)
                counts = {"faces": int((faces.status == "ok").sum()), "files": len(faces)}
                run.record("data", fingerprint=fingerprint(faces), index=index, **counts)
                run.record("command", **(command or {}))
            for step in steps:
                run_step(run, step)
        started = time.monotonic()
        index = render_book(run)
        run.record("commits", report=git_commit())
        say("report", clock(time.monotonic() - started))
        return index
