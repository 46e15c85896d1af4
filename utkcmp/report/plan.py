"""What to run: the notebooks in order, their parameters, and which of them are up to date.

A notebook's inputs are its source, its parameters, the faces, this package's code and the inputs
of those it reads from. It is up to date while their digests, stored beside it, stay the same.
"""

import ast
import contextlib
import difflib
import functools
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pandas as pd

from utkcmp.data.pairs import AllPairs
from utkcmp.data.split import earlier_split, keep_for_evaluation, split_faces, split_rows
from utkcmp.files import RunError, read_json
from utkcmp.params import (
    LARGER,
    SECTIONS,
    WEIGHTS,
    ParameterError,
    Params,
    check,
    check_names,
    least_size,
)
from utkcmp.run import PROJECT, Run, faceres_weights, find_weights

FOLDER = PROJECT / "notebooks"
SAID = ("sentences.py", "course_project.py", "tables.py")  # of report/: what notebooks use
TRAINING = "data split pairs network training experiments evaluation"  # of notebooks that train


class Notebook(NamedTuple):
    """The notebooks that one reads from, and the parameters it uses: sections or single names."""

    reads: str = ""
    uses: str = " ".join(SECTIONS)


# Each notebook follows those it reads from.
NOTEBOOKS = {
    "01_data_exploration": Notebook("", "data split"),
    "02_split": Notebook("", "data split"),
    "03_pair_dataset": Notebook("02_split", "data split pairs"),
    "04_siamese": Notebook("02_split", TRAINING),
    "05_concat": Notebook("02_split", TRAINING),
    "06_age_regressor_transfer": Notebook("02_split", f"{TRAINING} head_seeds"),
    "07_tuning": Notebook("02_split", f"{TRAINING} tuning"),
    "08_comparison": Notebook("04_siamese 05_concat 06_age_regressor_transfer 07_tuning"),
    "09_compare_two_photos": Notebook("08_comparison"),
}
READ_TEST = ("04_", "05_", "06_", "08_", "09_")  # notebooks that read the test split


class ReportError(Exception):
    """The report cannot be made; the message says why, in one sentence unless a notebook fails."""


class Step(NamedTuple):
    """One notebook to run: its source, its given parameters and the digests of its inputs."""

    name: str
    path: Path
    parameters: dict[str, Any]
    inputs: dict[str, str]
    reads: tuple[str, ...] = ()


def uses(notebook: Notebook) -> list[str]:
    """The names of the parameters that a notebook uses."""
    return [name for word in notebook.uses.split() for name in SECTIONS.get(word, (word,))]


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
    """Read the named notebooks. Raises ReportError if one is missing or unreadable."""
    read = {}
    for path in (folder / f"{name}.ipynb" for name in names):
        try:
            read[path.stem] = nbformat.read(path, as_version=4)
        except FileNotFoundError:
            raise ReportError(f"{path} is missing: the report needs all its notebooks") from None
        except Exception:  # nbformat raises what its JSON and schema readers raise
            raise ReportError(f"{path} is not a notebook that can be read") from None
    return read


def chosen(only: Iterable[str], graph: Mapping[str, Notebook]) -> list[str]:
    """The notebooks to run: all, or those in ``only`` and their dependencies.

    >>> chosen(["03_pair_dataset"], NOTEBOOKS)
    ['02_split', '03_pair_dataset']
    """
    wanted = {name.removesuffix(".ipynb") for name in only} or set(graph)
    for name in wanted - graph.keys():
        near = difflib.get_close_matches(name, graph, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(graph)}"
        raise ReportError(f"no notebook is called '{name}': {hint}")
    for name in reversed(graph):
        if name in wanted:
            wanted |= set(graph[name].reads.split())
    return [name for name in graph if name in wanted]


def check_parameters(
    given: dict[str, Any], notebooks: Mapping[str, nbformat.NotebookNode]
) -> dict[str, Any]:
    """Check the given parameters and those in the notebooks' parameter cells.

    Returns the value of every parameter in this run. Raises ParameterError.
    """
    check_names(given)
    effective = check(given).model_dump()
    for name, notebook in notebooks.items():
        cell = defaults(notebook)
        check(cell | given, source=f"notebook {name}")
        effective |= {key: cell[key] for key in cell.keys() & effective.keys() - given.keys()}
    return effective


def check_amounts(
    faces: pd.DataFrame, run: Run, given: dict[str, Any], used: Iterable[str]
) -> None:
    """Check that there are enough faces, and devices of this machine, for the parameters.

    faces: the index; used: the parameters that the notebooks to run use. A default batch size or
    number of pairs that is too large is no error: training then takes what there is. Raises
    ParameterError for the first parameter that is too large, RunError for missing weights.
    """
    p, used, asked = check(given), set(used), []
    starts = {"pretrained": p.pretrained.get("weights"), "weights": p.weights}
    for name, weights in starts.items():
        if name in used and weights not in (None, *WEIGHTS):
            find_weights(weights)
    least = math.ceil(least_size(p.backbone) / LARGER)
    if "ladder_size" in used and p.weights and p.ladder_size < least:  # it ends with this network
        raise ParameterError(
            f"ladder_size {p.ladder_size} is too small for {p.backbone}: expected {least} or more"
        )
    if "device" in used:
        asked += _machine(p)
    if "year_diff" in used:
        try:
            asked += _trainings(faces, run, p)
        except RunError:
            raise
        except ValueError as error:
            raise ParameterError(str(error)) from None
    for name, value, there, what in asked:
        capped = name not in given and name.endswith(("batch_size", "pair_counts"))
        if name in used and value > there and not capped:
            raise ParameterError(
                f"{name} is {value:,}, but there are {there:,} {what}: expected {there:,} or less"
            )


def _trainings(faces: pd.DataFrame, run: Run, p: Params) -> Iterator[tuple[str, float, int, str]]:
    """Requirements of the trainings: (parameter, value, available, of what)."""
    settings = {"train": p.train, "val": p.val, "test": p.test, "seed": p.seed, "leaky": p.leaky}
    split = split_faces(faces, **settings, previous=earlier_split(run, **settings))
    faces = faces.assign(split=split, evaluate=keep_for_evaluation(faces, p.max_conflict))
    valid = faces[faces.status == "ok"].reset_index(drop=True)  # as notebook 02 will have them
    rows = split_rows(valid, "train", p.duplicates)
    possible = AllPairs(valid.age[rows], p.year_diff).possible(p.unique_images)
    size = p.data_size or -1
    pairs = min(size, possible) if size > 0 else possible
    if p.unique_images:
        yield "data_size", size, possible, "pairs that share no face (unique_images)"
    yield "regressor_batch_size", p.regressor_batch_size, len(rows), "training faces"
    if p.pairing == "batch":
        yield "batch_size", p.batch_size, len(rows), "training faces"
    for name in ("val", "test"):
        if valid.age[split_rows(valid, name)].nunique() < 2:
            raise ValueError(f"{name} has no two faces of different ages: expected more faces")
    yield "batch_size", p.batch_size, pairs, "training pairs"
    yield "pair_counts", max(p.pair_counts), possible, "possible training pairs"


def _machine(p: Params) -> Iterator[tuple[str, float, int, str]]:
    """Requirements on this machine, as ``_trainings``: Ray would wait for missing devices."""
    gpus = 0
    if p.device == "cuda" or p.devices != 1 or p.gpus_per_trial:
        import torch  # takes seconds, so only if GPUs are requested

        gpus = torch.cuda.device_count()
    if p.device == "cuda" and not gpus:
        raise ParameterError("device is cuda, but PyTorch finds no GPU here: expected auto or cpu")
    if gpus and p.device != "cpu":
        yield "devices", p.devices, gpus, "GPUs here"
    if p.ray_address == "local":
        yield "gpus_per_trial", p.gpus_per_trial, gpus, "GPUs here"
        yield "cpus_per_trial", p.cpus_per_trial, os.cpu_count(), "processors here"


def plan(
    notebooks: Mapping[str, nbformat.NotebookNode],
    graph: Mapping[str, Notebook],
    given: dict[str, Any],
    faces: str,
    folder: Path,
) -> list[Step]:
    """The steps in order, with their parameters and inputs; faces: digest of the face index."""
    steps: dict[str, Step] = {}
    for name, notebook in notebooks.items():
        names, reads = uses(graph[name]), tuple(graph[name].reads.split())
        parameters = {key: given[key] for key in given if key in names}
        values = check(defaults(notebook) | parameters).model_dump(include={*names})
        cells = [(one.cell_type, one.source, one.metadata.get("tags")) for one in notebook.cells]
        inputs = {"its source": digest(cells), "its parameters": digest(values)}
        inputs |= {"the faces": faces, "the code": code_digest()}
        if "backbone" in names:  # a pretrained start, or a peer to compare with
            inputs["what `make weights` fetches"] = digest(faceres_weights().exists())
        inputs |= {other: digest(steps[other].inputs) for other in reads}
        steps[name] = Step(name, folder / f"{name}.ipynb", parameters, inputs, reads)
    return list(steps.values())


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def code_digest() -> str:
    """The digest of the code that makes results and of the course project's configurations."""
    made = [path for path in Path(__file__).parents[1].rglob("*") if path.suffix in (".py", ".csv")]
    made = [path for path in made if path.parent.name != "report" or path.name in SAID]
    made += PROJECT.glob("params/[cs]*.yaml")  # the configurations that notebook 08 runs
    return digest([("/".join(one.parts[-2:]), one.read_bytes().hex()) for one in sorted(made)])


def read_record(run: Run, name: str) -> dict[str, Any]:
    """The record of a notebook's last execution; empty if missing or damaged."""
    kinds = {"inputs": dict, "wrote": list, "finished": str, "spent": list, "since": int}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        record = read_json(record_path(run, name))
        if all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
            return record
    return {}


def record_path(run: Run, name: str) -> Path:
    return run.folder / "notebooks" / f"{name}.json"


def outdated(run: Run, step: Step) -> str:
    """Why a notebook must run, as a phrase that follows its name; empty if it is up to date."""
    record = read_record(run, step.name)
    if not record.get("finished") or not record_path(run, step.name).with_suffix(".ipynb").exists():
        return "has not run to its end"
    for what, value in step.inputs.items():
        if record["inputs"].get(what) != value:
            return f"was made before {what} changed"
    for name in map(str, record["wrote"]):
        if not (run.folder / name).exists():
            return f"wrote {name}, which is gone"
    for other in step.reads:
        if read_record(run, other).get("finished", "") > record["finished"]:
            return f"is older than {other}, from which it reads"
    return ""
