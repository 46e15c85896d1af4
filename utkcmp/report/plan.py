"""What to run: the notebooks in order, their parameters, and which of them are up to date.

What a notebook was made from is kept as one digest, its stamp: its own source, the parameters it
is given, the code of this package it imports, the faces, and the stamps of the notebooks it reads
from. A notebook whose stamp is unchanged need not run again.
"""

import ast
import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from utkcmp.data.pairs import count_pairs
from utkcmp.data.split import earlier_split, keep_for_evaluation, split_faces, training_rows
from utkcmp.files import RunError, read_json
from utkcmp.params import ParameterError, Params, check, check_names
from utkcmp.run import PROJECT, Run, faceres_weights

FOLDER = PROJECT / "notebooks"
# Each notebook and what it reads from; a notebook stands after those it depends on.
NOTEBOOKS: dict[str, tuple[str, ...]] = {
    "01_data_exploration": (),
    "02_split": (),
    "03_pair_dataset": ("02_split",),
    "04_siamese": ("02_split",),
    "05_concat": ("02_split",),
    "06_age_regressor_transfer": ("02_split",),
    "07_tuning": ("02_split",),
    "08_comparison": ("04_siamese", "05_concat", "06_age_regressor_transfer", "07_tuning"),
    "09_compare_two_photos": ("08_comparison",),
}
CAPPED = ("batch_size", "pair_counts")  # of these a notebook's default may exceed what there is
READ_TEST = ("04_", "05_", "06_", "08_", "09_")  # notebooks that read the test split
MODULE = Path(__file__).parents[1]


class ReportError(Exception):
    """The report cannot be made; the message is one sentence for the user."""


@dataclass(frozen=True)
class Step:
    """One notebook to run: its source, the parameters it is given, the digest of its inputs."""

    name: str
    path: Path
    parameters: dict[str, Any]
    stamp: str

    def record(self, run: Run) -> Path:
        """Where the stamp of this notebook's last run is kept, beside the executed notebook."""
        return run.folder / "notebooks" / f"{self.name}.json"


def defaults(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """The names and values in a notebook's ``parameters`` cell; empty if it has none."""
    found = {}
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for line in ast.parse(cell.source).body:
                if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                    found[line.targets[0].id] = ast.literal_eval(line.value)
    return found


def read_notebooks(folder: Path, names: Iterable[str]) -> dict[str, nbformat.NotebookNode]:
    """Read the named notebooks. Raises ReportError if one is missing or no notebook."""
    read = {}
    for name in names:
        path = folder / f"{name}.ipynb"
        try:
            read[name] = nbformat.read(path, as_version=4)
        except FileNotFoundError:
            raise ReportError(f"{path} is missing: the report needs all its notebooks") from None
        except Exception:  # nbformat raises what its JSON and schema readers raise
            raise ReportError(f"{path} is not a notebook that can be read") from None
    return read


def chosen(only: Iterable[str], graph: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The notebooks to run: all, or those in ``only`` and what they depend on.

    >>> chosen(["03_pair_dataset"], NOTEBOOKS)
    ['02_split', '03_pair_dataset']
    """
    wanted: set[str] = set()
    waiting = list(only) or list(graph)
    while waiting:
        name = waiting.pop().removesuffix(".ipynb")
        if name not in graph:
            near = difflib.get_close_matches(name, graph, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(graph)}"
            raise ReportError(f"no notebook is called '{name}': {hint}")
        wanted.add(name)
        waiting += graph[name]
    return [name for name in graph if name in wanted]


def check_parameters(given: dict[str, Any], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Check the given parameters against every notebook that takes them, before anything runs.

    known: the defaults of each notebook. Returns the value that each parameter has in this run;
    where notebooks differ in their defaults, a dict of them by notebook. Raises ParameterError.
    """
    check_names(given, known={name for cell in known.values() for name in cell})
    check(given)
    effective: dict[str, dict[str, Any]] = {}
    for notebook, cell in known.items():
        values = {name: given.get(name, default) for name, default in cell.items()}
        check(values, source=f"notebook {notebook}")
        for name, value in values.items():
            effective.setdefault(name, {})[notebook] = value
    return {
        name: next(iter(values.values())) if len(set(map(repr, values.values()))) == 1 else values
        for name, values in sorted(effective.items())
    }


def check_amounts(
    faces: pd.DataFrame, run: Run, given: dict[str, Any], known: dict[str, dict[str, Any]]
) -> None:
    """Check what no parameter says by itself: whether faces and machine suffice for what is asked.

    faces: the index; known: the defaults of the notebooks to run. A default batch or number of
    pairs that is too large is no error, since training then takes what there is. Raises
    ParameterError with the first parameter that asks for too much, and how much there is.
    """
    training = {name: cell for name, cell in known.items() if "year_diff" in cell}
    valid = _parted(faces, run, check(given)) if training else faces
    for notebook, cell in known.items():
        p = check({name: given.get(name, default) for name, default in cell.items()})
        asked = _machine(p, cell)
        if notebook in training:
            asked += _trainings(valid, p, cell)
        for name, value, there, what in asked:
            if value > there and (name in given or not name.endswith(CAPPED)):
                raise ParameterError(
                    f"{name} is {value:,} for notebook {notebook}, but there are {there:,} {what}: "
                    f"expected {there:,} or less"
                )


def _parted(faces: pd.DataFrame, run: Run, p: Params) -> pd.DataFrame:
    """The valid faces with their ``split`` and ``evaluate``, as notebook 02 will have them."""
    settings = {"train": p.train, "val": p.val, "test": p.test, "seed": p.seed, "leaky": p.leaky}
    try:
        split = split_faces(faces, **settings, previous=earlier_split(run, **settings))
    except RunError:
        raise
    except ValueError as error:
        raise ParameterError(str(error)) from None
    faces = faces.assign(split=split, evaluate=keep_for_evaluation(faces, p.max_conflict))
    return faces[faces.status == "ok"].reset_index(drop=True)


def _trainings(valid: pd.DataFrame, p: Params, cell: dict) -> list[tuple]:
    """What a notebook's trainings ask of the faces, as name, value, what there is, of what."""
    rows = training_rows(valid, p.duplicates)
    try:
        possible = count_pairs(valid.age.to_numpy(int)[rows], p.year_diff, p.unique_images)
    except ValueError as error:
        raise ParameterError(str(error)) from None
    size = -1 if p.data_size is None else p.data_size
    asked = []
    if p.unique_images:
        asked.append(("data_size", size, possible, "pairs that share no face (unique_images)"))
    of_faces = len(rows), "training faces"
    of_pairs = min(size, possible) if size > 0 else possible, "training pairs"
    if "batch_size" in cell:
        by_faces = p.pairing == "batch" and "pairing" in cell
        asked.append(("batch_size", p.batch_size, *(of_faces if by_faces else of_pairs)))
    if p.pair_counts:
        asked.append(("pair_counts", max(p.pair_counts), possible, "possible training pairs"))
    if "regressor_batch_size" in cell:
        asked.append(("regressor_batch_size", p.regressor_batch_size, *of_faces))
    return asked


def _machine(p: Params, cell: dict) -> list[tuple]:
    """What a notebook asks of this machine, as ``_trainings``. Ray would wait for what is not."""
    import torch  # takes seconds; whoever checks parameters has loaded it

    gpus, asked = torch.cuda.device_count(), []
    if "device" in cell and p.device == "cuda" and not gpus:
        raise ParameterError("device is cuda, but PyTorch finds no GPU here: expected auto or cpu")
    if "device" in cell and p.device in ("auto", "cuda") and gpus:
        asked.append(("devices", p.devices, gpus, "GPUs here"))
    if "gpus_per_trial" in cell and p.ray_address == "local":
        asked.append(("gpus_per_trial", p.gpus_per_trial, gpus, "GPUs here"))
        asked.append(("cpus_per_trial", p.cpus_per_trial, os.cpu_count(), "processors here"))
    return asked


def modules_of(notebook: nbformat.NotebookNode) -> list[Path]:
    """The files of this package whose code a notebook may run: those of the rooms that it imports,
    and of the rooms that these import."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    waiting, found = [room for source in sources for room in _rooms(source)], set()
    while waiting:
        if (room := waiting.pop()) not in found:
            found.add(room)
            waiting += [one for path in _files_of(room) for one in _rooms(path.read_text("utf-8"))]
    return sorted(path for room in found for path in _files_of(room))


def _files_of(room: str) -> list[Path]:
    return [*MODULE.glob(f"{room}.py"), *MODULE.glob(f"{room}/*.py")]


def _rooms(source: str) -> Iterator[str]:
    """The rooms, and modules beside them, that some code imports."""
    try:
        nodes = ast.walk(ast.parse(source))
    except SyntaxError:  # an IPython command: count on everything
        yield "*"
        return
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for alias in node.names:
                package, *room = f"{module}.{alias.name}".removeprefix("None.").split(".")
                if package == MODULE.name and room:
                    yield room[0]


def stamp_of(
    notebook: nbformat.NotebookNode, parameters: dict, data: str, dependencies: Iterable[str]
) -> str:
    """The digest of all a notebook's results depend on.

    data: digest of the face index; dependencies: the stamps of the notebooks it reads from.
    """
    digest = hashlib.sha256()
    cells = [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in notebook.cells]
    digest.update(json.dumps([cells, parameters, data, *dependencies], sort_keys=True).encode())
    modules = modules_of(notebook)
    stored = [path for path in MODULE.glob("report/reported/*.csv") if path.is_file()]
    for path in [*modules, *sorted(stored)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    if "peers" in {path.stem for path in modules}:  # there is a peer, or there is none
        digest.update(str(faceres_weights().exists()).encode())
    return digest.hexdigest()


def plan(
    notebooks: dict[str, nbformat.NotebookNode],
    graph: Mapping[str, tuple[str, ...]],
    given: dict[str, Any],
    data: str,
    folder: Path,
) -> list[Step]:
    """The steps in order, each with its parameters and stamp."""
    stamps: dict[str, str] = {}
    steps = []
    for name, notebook in notebooks.items():
        parameters = {key: given[key] for key in defaults(notebook) if key in given}
        stamps[name] = stamp_of(notebook, parameters, data, [stamps[d] for d in graph[name]])
        steps.append(Step(name, folder / f"{name}.ipynb", parameters, stamps[name]))
    return steps


def up_to_date(run: Run, step: Step) -> bool:
    """Whether a notebook was run with this stamp and all the files it wrote are still there."""
    record = step.record(run)
    try:
        same = read_json(record)["stamp"] == step.stamp
    except (OSError, ValueError, KeyError, TypeError):
        return False
    wrote = [run.folder / name for name in written(record)]
    return same and record.with_suffix(".ipynb").exists() and all(path.exists() for path in wrote)


def written(record: Path) -> list[str]:
    """The files, relative to the run's folder, that a notebook's record says it wrote."""
    try:
        return list(map(str, read_json(record)["wrote"]))
    except (OSError, ValueError, KeyError, TypeError):
        return []
