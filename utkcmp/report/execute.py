"""Run one notebook by papermill, in a kernel of this interpreter, with one line of progress."""

import contextlib
import os
import re
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.exceptions import PapermillExecutionError

from utkcmp.files import atomic
from utkcmp.processes import ends_with_us
from utkcmp.run import PROJECT, outputs_root

TICK = 1.0  # seconds between two rewrites of the progress line
SENTENCES = ("DataError", "ParameterError")  # errors whose message is all that a user needs
# As the system says it, through Python or the Rust of safetensors.
UNWRITABLE = re.compile(r"No space left on device|Disk quota exceeded|Read-only file system")


class NotebookFailed(Exception):
    """A notebook stopped; the message names the cell and the error in a few lines, or says in one
    sentence what is wrong with the data or the disk."""


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, with hours where there are any.

    >>> clock(34), clock(3671)
    ('0:34', '1:01:11')
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class ProgressLine:
    """One line a step: rewritten each second in a terminal, written once at its end elsewhere.

    out: where to write; width: of the column of names.
    """

    def __init__(self, out: TextIO | None = None, width: int = 26):
        self.out, self.width = out or sys.stdout, width
        self.live = self.out.isatty()
        self._detail = ""

    def say(self, name: str, *parts: str) -> None:
        """Write one finished line."""
        print("   ".join([f"{name:{self.width}}", *filter(None, parts)]), file=self.out, flush=True)

    def detail(self, text: str) -> None:
        """What the running step is at, shown between its name and its time."""
        self._detail = text

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show a step while the block runs; its line stays if the block succeeds."""
        self._detail, started, done = "", time.monotonic(), threading.Event()

        def tick():
            while not done.wait(TICK):
                now = clock(time.monotonic() - started)
                line = f"{name:{self.width}}   {self._detail:12}   {now}"
                print(f"\r\033[K{line}", end="", file=self.out, flush=True)

        ticker = threading.Thread(target=tick, daemon=True)
        if self.live:
            ticker.start()
        try:
            yield
        finally:
            done.set()
            if self.live:
                ticker.join()
                print("\r\033[K", end="", file=self.out, flush=True)
        self.say(name, f"{self._detail:12}", clock(time.monotonic() - started))


class ThisPython(AsyncKernelManager):
    """A kernel of the running interpreter, whatever kernel specifications are installed.

    launch: options of its process, as of subprocess.Popen.
    """

    launch: dict[str, Any] = {}

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict(["--log-level=ERROR"]))

    async def _async_start_kernel(self, **options: Any) -> None:
        await super()._async_start_kernel(**options, **self.launch)

    start_kernel = _async_start_kernel


def execute(
    source: Path,
    target: Path,
    parameters: dict[str, Any],
    tell: Callable[[str], None] = lambda text: None,
    keep_open: tuple[int, ...] = (),
) -> None:
    """Run the notebook ``source`` in its own folder and leave the executed one at ``target``.

    While it runs, and after a failure, what has been executed is in ``<target>.partial.ipynb``.
    tell: called with the position, such as ``cell 7/21``, when a cell starts. Raises
    NotebookFailed; an interruption ends the kernel and passes on.
    """
    partial = target.with_suffix(".partial.ipynb")
    count = len(nbformat.read(source, as_version=4).cells) + bool(parameters)
    position = 0

    def on_cell_start(cell, cell_index):
        nonlocal position
        position = cell_index + 1
        tell(f"cell {position}/{count}")

    # The log takes what the kernel says outside of cells.
    with tempfile.TemporaryFile() as log, ends_with_us():
        launch = {"pass_fds": keep_open, "stderr": log}
        try:
            notebook = papermill.execute_notebook(
                _plain(source),
                _plain(partial),
                parameters=parameters,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                cwd=source.parent,
                kernel_manager_class=type("Kernel", (ThisPython,), {"launch": launch}),
                on_cell_start=on_cell_start,
                store_widget_state=False,
            )
        except PapermillExecutionError as error:
            if said := _sentence(error, target.parent):
                raise NotebookFailed(f"{source.stem}: {said}") from None
            cell = error.cell_index + 1
            problem = _message(source, partial, cell, count, _failure(error))
            raise NotebookFailed(problem) from None
        except RuntimeError as error:  # nbclient: the kernel died, or never started
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-3:]
            reason = f"{error}: its process ended by itself; killed for lack of memory?"
            problem = "\n".join(f"  {line}" for line in [reason, *last])
            raise NotebookFailed(_message(source, partial, position, count, problem)) from None
    tell(f"{count} cells")
    notebook.metadata.papermill.update(input_path=source.name, output_path=target.name)
    hide_places(notebook)
    with atomic(target) as temporary:
        nbformat.write(notebook, temporary)
    partial.unlink()


def hide_places(notebook: nbformat.NotebookNode) -> None:
    """Shorten this machine's paths in the text that a notebook printed: it may be published."""
    for output in (one for cell in notebook.cells for one in cell.get("outputs", [])):
        if "text" in output:
            output.text = _shortened(output.text)
        for kind in output.get("data", {}):
            if kind.startswith("text/"):
                output.data[kind] = _shortened(output.data[kind])


def _shortened(text: str) -> str:
    packages = Path(sysconfig.get_path("purelib"))
    places = {
        str(packages): "site-packages",
        str(packages.resolve()): "site-packages",
        os.environ.get("UTKFACE") or "$UTKFACE": "$UTKFACE",
        str(outputs_root().resolve()): "outputs",
        str(PROJECT): PROJECT.name,
        f"{tempfile.gettempdir()}/ipykernel_": "ipykernel_",
        f"{Path.home()}/": "~/",
    }
    for place in sorted(places, key=len, reverse=True):  # the inner of two first
        text = text.replace(place, places[place])
    return text


def _plain(path: Path) -> str:
    return str(path.resolve()).replace("{", "{{").replace("}", "}}")  # papermill formats its paths


def _message(source: Path, partial: Path, cell: int, count: int, problem: str) -> str:
    return (
        f"{source.stem} failed in cell {cell} of {count}\n{problem}\n"
        f"  executed so far: {partial}\n  the same command goes on from here"
    )


def _sentence(error: PapermillExecutionError, folder: Path) -> str | None:
    """One sentence on an error that lies not with the notebook; None for any other."""
    reason = _plain_text(error.evalue).strip()
    if error.ename in SENTENCES:
        return reason
    if found := UNWRITABLE.search(reason):
        return (
            f"{found[0].lower()}: nothing more can be written to {folder.parent}; "
            "once that is mended, the same command goes on from here"
        )
    return None


def _failure(error: PapermillExecutionError) -> str:
    code = [line for line in error.source.splitlines() if line.strip()[:1] not in ("", "#")]
    lines = [f"  {code[0]}"] if code else []
    failed = re.search(r"-+> (\d+) (.*)", _plain_text("\n".join(error.traceback)))
    if failed and code and failed[2].strip() != code[0].strip():
        lines.append(f"  line {failed[1]}: {failed[2].strip()}")
    reason = _plain_text(error.evalue).strip().splitlines() or [""]
    lines.append(f"  {error.ename}: {reason[0]}")
    return "\n".join(lines + [f"    {line}" for line in reason[1:5]])


def _plain_text(text: str) -> str:
    return re.sub(r"\033\[[0-9;]*m", "", text)
