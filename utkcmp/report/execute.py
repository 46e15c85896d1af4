"""Running a notebook with papermill in a kernel of this interpreter, with short error messages."""

import os
import re
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.exceptions import PapermillExecutionError

from utkcmp.files import atomic
from utkcmp.processes import ends_with_us
from utkcmp.report.plan import ReportError
from utkcmp.run import PROJECT, outputs_root

SENTENCES = ("DataError", "ParameterError", "RunError")  # errors whose message is sufficient
# Messages of the operating system, from Python or from safetensors (Rust).
UNWRITABLE = re.compile(r"No space left on device|Disk quota exceeded|Read-only file system")
ANSI = re.compile(r"\033\[[0-9;]*m")  # colours
GOES_ON = "the same command resumes from here"
WIDTH = 26  # of the column of notebook names


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, with hours where there are any.

    >>> clock(34), clock(3671)
    ('0:34', '1:01:11')
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class ThisPython(AsyncKernelManager):
    """A kernel of the running interpreter, whatever kernel specifications are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict(["--log-level=CRITICAL"]))


def execute(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Run the notebook ``source`` in its own folder and write the executed one to ``target``.

    During the run, and after a failure, the cells executed so far are in
    ``<target>.partial.ipynb``. Raises ReportError, which names cell and error in a few lines or,
    for faults of data or disk, in one sentence; an interrupt ends the kernel and propagates.
    """
    partial, started = target.with_suffix(".partial.ipynb"), [0]
    # papermill formats its paths, so braces are doubled.
    places = [re.sub("[{}]", r"\g<0>\g<0>", str(path.resolve())) for path in (source, partial)]
    bar = {"desc": f"{source.stem:{WIDTH}}", "leave": False, "disable": None}
    with ends_with_us():
        try:
            notebook = papermill.execute_notebook(
                *places,
                parameters=parameters,
                kernel_name="python3",
                language="python",
                progress_bar=bar | {"bar_format": "{desc}   cell {n}/{total}   {elapsed}"},
                cwd=source.parent,
                kernel_manager_class=ThisPython,
                on_cell_start=lambda cell, cell_index: started.append(cell_index + 1),
                store_widget_state=False,
            )
        except PapermillExecutionError as error:
            reason = ANSI.sub("", error.evalue).strip()
            if error.ename in SENTENCES:
                raise ReportError(f"{source.stem}: {reason}") from None
            if found := UNWRITABLE.search(reason):
                nothing = f"nothing more can be written to {target.parent.parent}"
                said = f"{found[0].lower()}: {nothing}; once that is fixed, {GOES_ON}"
                raise ReportError(f"{source.stem}: {said}") from None
            cell, lines = error.cell_index + 1, reason.splitlines()[:5] or [""]
            problem = "\n    ".join([f"  {error.ename}: {lines[0]}", *lines[1:]])
            if at := re.search(r"-+> (\d+) (.*)", ANSI.sub("", "\n".join(error.traceback))):
                problem = f"  line {at[1]}: {at[2].strip()}\n{problem}"
        except RuntimeError as error:  # nbclient: the kernel died, or never started
            cell = started[-1]
            problem = f"  {error}: its process ended by itself; killed for lack of memory?"
        else:
            notebook.metadata.papermill.update(input_path=source.name, output_path=target.name)
            hide_places(notebook)
            with atomic(target) as temporary:
                nbformat.write(notebook, temporary)
            partial.unlink()
            return
    count = len(nbformat.read(source, as_version=4).cells) + bool(parameters)
    raise ReportError(
        f"{source.stem} failed in cell {cell} of {count}\n{problem}\n"
        f"  executed so far: {partial}\n  {GOES_ON}"
    )


def hide_places(notebook: nbformat.NotebookNode) -> None:
    """Replace this machine's paths in a notebook's output, which may be published."""
    for output in (one for cell in notebook.cells for one in cell.get("outputs", [])):
        if "text" in output:
            output.text = shortened(output.text)
        for kind in output.get("data", {}):
            if kind.startswith("text/"):
                output.data[kind] = shortened(output.data[kind])


def shortened(text: str) -> str:
    """Text with this machine's folders replaced by what they stand for."""
    packages = Path(sysconfig.get_path("purelib"))
    places = {
        Path(tempfile.gettempdir()) / "ipykernel_": "ipykernel_",
        Path.home(): "~",
        PROJECT: PROJECT.name,
        outputs_root().resolve(): "outputs",
        packages: "site-packages",
        packages.resolve(): "site-packages",
        Path(os.environ.get("UTKFACE") or "/"): "$UTKFACE",
    }
    for place in sorted(places, key=lambda one: len(str(one)), reverse=True):  # inner ones first
        if place != Path(place.anchor):  # in a container anything may be /
            end = "" if place.name == "ipykernel_" else r"(?![\w-]|\.\w)"
            text = re.sub(re.escape(str(place)) + end, lambda _, to=places[place]: to, text)
    return text
