"""Running the notebooks: order, parameters, reruns, failures and kills."""

import ast
import contextlib
import errno
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from utkcmp.params import SECTIONS, ParameterError, Params, check
from utkcmp.report import command as report
from utkcmp.report import runner
from utkcmp.report.book import render_book
from utkcmp.report.command import main
from utkcmp.report.execute import shortened
from utkcmp.report.plan import (
    NOTEBOOKS,
    SAID,
    Notebook,
    ReportError,
    chosen,
    defaults,
    outdated,
    plan,
    uses,
)
from utkcmp.report.runner import locked, make_report
from utkcmp.run import PROJECT, Run

SHORT = {"02_split": Notebook(uses="data"), "03_last": Notebook("02_split", "data training")}
GRAPH = {"01_first": Notebook(uses="data")} | SHORT
PARAMETERS = 'run = "lab"\ndata = "embedded"\nn_faces = 50\nseed = 42\n'
# Each notebook logs its name to a file of the run, which shows the tests what was executed.
NOTE = """\
import os, sys
from pathlib import Path
folder = Path(os.environ["UTKCMP_OUTPUTS"]) / run
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "log.txt", "a") as log:
    log.write("{name} " + sys.executable + "\\n")
(folder / "{name}.txt").write_text("written")
"""
DRIVER = """\
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
from pathlib import Path
import pandas as pd
from utkcmp.report import command as report
from utkcmp.report import runner
from utkcmp import run
run.environment = dict
runner.read_data = lambda params: pd.DataFrame({{"file": ["a.jpg"], "status": ["ok"]}})
runner.fingerprint = lambda faces: "0"
runner.check_amounts = runner.render_book = lambda *_: None
from utkcmp.report.plan import Notebook
sys.exit(report.main(sys.argv[1:], folder=Path({folder!r}), graph={graph!r}))
"""


def write(folder: Path, name: str, parameters: str = PARAMETERS, *code: str) -> None:
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_code_cell(cell) for cell in (NOTE.format(name=name), *code)]
    title = nbformat.v4.new_markdown_cell(f"# {name}\n\n> What it says.")
    nbformat.write(
        nbformat.v4.new_notebook(cells=[title, tagged, *cells]), folder / f"{name}.ipynb"
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of three tiny notebooks, with a separate outputs folder, and no book of them."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in GRAPH:
        write(folder, name)
    write(folder, "03_last", PARAMETERS + "epochs = 3\n")
    faces = pd.DataFrame({"file": ["a.jpg"], "status": ["ok"]})
    monkeypatch.setattr(runner, "read_data", lambda params: faces)
    monkeypatch.setattr(runner, "fingerprint", lambda faces: "0")
    monkeypatch.setattr(runner, "check_amounts", lambda *_: None)
    monkeypatch.setattr(runner, "render_book", lambda run: run.folder / "report/index.html")
    monkeypatch.setattr("utkcmp.run.environment", dict)
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path / "outputs"))
    return folder


def made(folder: Path, graph=GRAPH, only=(), **given) -> tuple[list[str], str]:
    """Make the report; returns the names of the executed notebooks and the output."""
    log, shown = folder.parent / "outputs/lab/log.txt", io.StringIO()
    before = len(log.read_text().splitlines()) if log.exists() else 0
    with contextlib.redirect_stdout(shown):
        make_report(given, folder=folder, graph=graph, only=only)
    lines = log.read_text().splitlines()[before:]
    assert all(line.split(" ", 1)[1] == sys.executable for line in lines)
    return [line.split()[0] for line in lines], shown.getvalue()


def test_runs_in_order_and_again_only_what_changed(place, monkeypatch):
    run = place.parent / "outputs/lab"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "render_book", render_book)
        got, shown = made(place)
    assert got == ["01_first", "02_split", "03_last"]
    lines = [line.split() for line in shown.splitlines()]
    assert [line[0] for line in lines] == ["faces", *GRAPH, "report"]
    assert re.fullmatch(r"01_first +0:0\d   \(0:0\d of processor time\)", shown.splitlines()[1])
    assert (run / "report/index.html").exists()
    record = json.loads((run / "run.json").read_text())
    assert set(record["seconds"]) == set(GRAPH) and record["data"]["faces"] == 1
    assert record["parameters"]["epochs"] == 3
    for section in ("processor_seconds", "commits", "finished"):
        assert set(record[section]) - {"report"} == set(GRAPH)

    got, shown = made(place)
    assert got == [] and shown.count("up to date") == 3
    assert made(place, epochs=4)[0] == ["03_last"]
    assert made(place, epochs=4, hidden_layers=[64])[0] == []  # used by no notebook here
    (run / "01_first.txt").unlink()
    assert made(place, epochs=4)[0] == ["01_first"]
    write(place, "02_split", PARAMETERS, "1 + 1")
    assert made(place, epochs=4, only=["03_last"])[0] == ["02_split", "03_last"]
    executed = nbformat.read(run / "notebooks/03_last.ipynb", 4)
    assert executed.metadata.papermill.parameters == {"run": "lab", "epochs": 4}
    assert str(place.parent) not in nbformat.writes(executed).replace(sys.executable, "")


def test_a_failure_names_the_cell_and_the_next_call_goes_on(place, capsys):
    code = "# why\nb = 2\nraise ValueError('the reason\\nand more')"
    write(place, "02_split", PARAMETERS, "a = 1", code)
    assert main([], folder=place, graph=SHORT) == 1
    shown, said = capsys.readouterr()
    assert "index.html" not in shown
    assert said.splitlines()[:4] == [
        "02_split failed in cell 6 of 6",
        "  line 3: raise ValueError('the reason\\nand more')",
        "  ValueError: the reason",
        "    and more",
    ]
    partial = place.parent / "outputs/lab/notebooks/02_split.partial.ipynb"
    assert str(partial) in said and partial.exists()
    assert "Traceback" not in said

    write(place, "02_split", PARAMETERS, "a = 1")
    assert made(place, SHORT)[0] == ["02_split", "03_last"]
    assert not partial.exists()


def test_printed_paths_are_shortened(place, tmp_path, monkeypatch):
    monkeypatch.setenv("UTKFACE", str(tmp_path / "faces.zip"))
    cell = "import nbformat\nprint(nbformat.__file__, os.environ['UTKFACE'], folder.resolve())\n"
    cell += "import warnings; warnings.warn('odd'); str(Path.home() / 'x')"
    write(place, "02_split", PARAMETERS, cell)
    made(place, SHORT)
    outputs = nbformat.read(tmp_path / "outputs/lab/notebooks/02_split.ipynb", 4).cells[-1].outputs
    texts = [one.get("text") or one.data["text/plain"] for one in outputs]
    assert texts[0] == "site-packages/nbformat/__init__.py $UTKFACE outputs/lab\n"
    assert texts[1].startswith("ipykernel_") and texts[2] == "'~/x'"


def test_a_kernel_that_dies_is_a_failure(place):
    write(place, "02_split", PARAMETERS, "import os; os._exit(1)")
    with pytest.raises(ReportError, match="02_split failed in cell 5 of 5\n.*died"):
        made(place, SHORT)


@pytest.mark.parametrize(
    ("arguments", "expect"),
    [
        (["-p", "epoch=3"], "parameter 'epoch'.*did you mean 'epochs'"),
        (["-p", "epochs=many"], "epochs = 'many'"),
        (["-p", "epochs=0"], "epochs = 0"),
        (["-p", "epochs"], "expected name=value"),
        (["-f", "no/such.yaml"], "no/such.yaml: no such file"),
        (["--only", "04_last"], "no notebook is called '04_last': did you mean '03_last'"),
        (["--no-run"], "holds no executed notebook"),
    ],
)
def test_wrong_arguments_are_one_sentence_before_anything_runs(
    place, capsys, monkeypatch, arguments, expect
):
    monkeypatch.setattr(runner, "render_book", render_book)
    assert main(arguments, folder=place, graph=GRAPH) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search(expect, said), said
    assert not (place.parent / "outputs/lab").exists()


def test_a_missing_notebook_is_an_error(place):
    (place / "02_split.ipynb").unlink()
    with pytest.raises(ReportError, match="02_split.ipynb is missing"):
        made(place)


def test_bad_data_is_one_sentence_and_leaves_no_run(place, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(place.parent / "outputs"))
    assert main(["--data", "no/such/folder"], folder=place, graph=GRAPH) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "no/such/folder" in said
    monkeypatch.delenv("UTKFACE", raising=False)
    assert main(["-p", "data=$UTKFACE"], folder=place, graph=GRAPH) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "UTKFACE" in said
    assert not (place.parent / "outputs/lab").exists()


def test_files_and_overrides_in_order(place, tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 5\nseed: 1\n")
    (tmp_path / "b.yaml").write_text("epochs: 6\n")
    files = ["-f", str(tmp_path / "a.yaml"), "-f", str(tmp_path / "b.yaml")]
    graph = {"03_last": Notebook(uses="data training")}
    assert main([*files, "-p", "seed=2"], folder=place, graph=graph) == 0
    executed = nbformat.read(tmp_path / "outputs/lab/notebooks/03_last.ipynb", 4)
    expect = {"run": "lab", "epochs": 6, "seed": 2}
    assert executed.metadata.papermill.parameters == expect
    command = json.loads((tmp_path / "outputs/lab/run.json").read_text())["command"]["make"]
    assert command == "make report PARAMS='a.yaml b.yaml' SET=seed=2"


def test_the_recorded_command_tells_no_path_of_this_machine():
    words = ["-f", "/home/me/a.yaml", "-f", str(PROJECT / "params/quick.yaml")]
    words += ["-p", "data=/home/me/x.zip", "-p", "lr=0.1", "--data", "/home/me/UTK Face.tar.gz"]
    got = report._command(report._arguments(words), {})["make"]
    expect = "make report PARAMS='a.yaml params/quick.yaml' SET='data=/path/to/x.zip lr=0.1' "
    assert got == expect + "DATA='/path/to/UTK Face.tar.gz'"


def test_the_recorded_command_names_data_that_the_environment_gave(monkeypatch):
    monkeypatch.setenv("UTKFACE", "/home/me/UTKFace.tar.gz")
    args = report._arguments(["-f", str(PROJECT / "params/utkface.yaml")])
    expect = "make report PARAMS=params/utkface.yaml"
    said = report._command(args, {"data": "$UTKFACE"})["make"]
    assert said == f"{expect} DATA=/path/to/UTKFace.tar.gz"
    assert report._command(args, {"data": "embedded"})["make"] == expect


def test_a_second_run_into_the_same_folder_stops(place, monkeypatch):
    monkeypatch.setattr(runner, "LOCK_WAIT", 0.0)
    with locked(place.parent / "outputs/lab"):
        with pytest.raises(ReportError, match="another report is being made"):
            made(place)


def launch(place: Path) -> subprocess.Popen:
    """Start the command in a separate process."""
    script = DRIVER.format(folder=str(place), graph=SHORT)
    return subprocess.Popen([sys.executable, "-c", script], stdout=-1, stderr=-1, text=True)


def start(place: Path) -> subprocess.Popen:
    """``launch``, then wait until a cell has written its process id."""
    process = launch(place)
    while not (place.parent / "outputs/lab/pid").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"


SLEEP = """\
import os, time
if not (folder / "pid").exists():
    (folder / "pid.part").write_text(str(os.getpid()))
    os.rename(folder / "pid.part", folder / "pid")
    time.sleep(60)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_an_interrupted_run_leaves_no_kernel_and_goes_on(place, number, status):
    write(place, "02_split", PARAMETERS, SLEEP)
    process = start(place)
    kernel = int((place.parent / "outputs/lab/pid").read_text())
    process.send_signal(number)
    shown, said = process.communicate(timeout=300)
    assert process.returncode == status
    assert shown.split()[0] == "faces" and "02_split" not in shown
    assert said.splitlines() == ([] if status == -9 else ["", report.INTERRUPTED])

    deadline = time.monotonic() + 60
    while alive(kernel):
        assert time.monotonic() < deadline, "the kernel outlives its run"
        time.sleep(0.05)
    again, _ = made(place, SHORT)
    assert again == ["02_split", "03_last"]


def test_of_two_runs_into_one_folder_the_second_says_so_and_stops(place):
    write(place, "02_split", PARAMETERS, SLEEP.replace("sleep(60)", "sleep(900)"))
    first, second = start(place), launch(place)
    try:
        shown, said = second.communicate(timeout=600)
        assert (second.returncode, first.poll()) == (1, None)
        assert "02_split" not in shown and len(said.splitlines()) == 1
        assert "another report is being made" in said and "wait for it to end" in said
    finally:
        first.kill()
        first.communicate()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_takes_a_run(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):  # nor is what the first leaves in the way of the second
        with warnings.catch_warnings(action="error"), locked(tmp_path / "run"):
            (tmp_path / "run/file").touch()


VANISHED = """\
import os, shutil
from utkcmp.data.index import index_faces
shutil.rmtree(os.environ["UTKFACE"])
index_faces(os.environ["UTKFACE"])
"""
FULL = "open('/dev/full', 'wb', buffering=0).write(b'x')"


@pytest.mark.parametrize(
    ("cell", "expect"),
    [
        (VANISHED, r"03_last: .*/faces does not exist: expected a folder"),
        (FULL, r"03_last: no space left on device: nothing more can be written to .*/outputs/lab"),
    ],
)
def test_data_that_vanish_and_a_full_disk_are_one_sentence(
    place, tmp_path, capsys, monkeypatch, cell, expect
):
    (tmp_path / "faces").mkdir()
    monkeypatch.setenv("UTKFACE", str(tmp_path / "faces"))
    write(place, "03_last", PARAMETERS, cell)
    assert main([], folder=place, graph=SHORT) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and re.search(expect, said), said
    write(place, "03_last", PARAMETERS)
    assert made(place, SHORT)[0] == ["03_last"]  # finished notebooks stay valid


def test_the_order_of_the_real_notebooks_holds():
    names = list(NOTEBOOKS)
    assert names == sorted(names)
    for name, notebook in NOTEBOOKS.items():
        assert all(names.index(one) < names.index(name) for one in notebook.reads.split())
    assert chosen([], NOTEBOOKS) == names


def test_a_page_is_made_anew_when_what_it_uses_of_this_room_has_changed():
    import utkcmp.report

    used = [getattr(utkcmp.report, name) for name in utkcmp.report.__all__]
    modules = {one.__module__.rpartition(".")[2] + ".py" for one in used if callable(one)}
    assert modules == set(SAID)


def test_each_input_counts(place):
    notebooks = {name: nbformat.read(place / f"{name}.ipynb", 4) for name in GRAPH}

    def inputs(given=None, faces="0"):
        return plan(notebooks, GRAPH, given or {}, faces, place)[-1].inputs

    first = inputs()
    assert inputs({"epochs": 3}) == first  # the default in its cell
    assert set(first) == {"its source", "its parameters", "the faces", "the code", "02_split"}
    for changed, other in {
        "its parameters": inputs({"epochs": 4}),
        "the faces": inputs(faces="1"),
    }.items():
        assert other[changed] != first[changed] and other["the code"] == first["the code"]
    assert inputs({"seed": 1})["02_split"] != first["02_split"]
    notebooks["03_last"].cells[0].outputs = ["an output"]
    assert inputs() == first
    notebooks["03_last"].cells[0].source += "more"
    assert inputs()["its source"] != first["its source"]


def test_a_notebook_is_given_only_what_it_uses(place):
    notebooks = {name: nbformat.read(place / f"{name}.ipynb", 4) for name in GRAPH}
    steps = plan(notebooks, GRAPH, {"lr": 0.1, "run": "x"}, "data", place)
    got = [step.parameters for step in steps]
    assert got == [{"run": "x"}, {"run": "x"}, {"run": "x", "lr": 0.1}]  # in no parameter cell
    with pytest.raises(ParameterError, match="epochs"):
        made(place, epochs=[1])


def test_what_a_notebook_made_is_what_is_there(place):
    run = Run(place.parent / "outputs/lab")
    made(place)
    notebooks = {name: nbformat.read(place / f"{name}.ipynb", 4) for name in GRAPH}
    index = run.read_record()["data"]["index"]
    first, split, last = plan(notebooks, GRAPH, {"run": "lab"}, index, place)
    assert [outdated(run, step) for step in (first, split, last)] == ["", "", ""]
    (run.folder / "notebooks/01_first.json").write_text("{}")
    assert outdated(run, first) == "has not run to its end"
    (run.folder / "02_split.txt").unlink()
    assert outdated(run, split) == "wrote 02_split.txt, which is gone"
    assert made(place, only=["02_split"])[0] == ["02_split"]
    assert outdated(run, last) == "is older than 02_split, from which it reads"


def test_time_counts_every_sitting_and_every_process(place, monkeypatch):
    monkeypatch.setattr(runner, "LOOKS", 0.5)
    burn = (
        "import subprocess, sys, time\ncode = 'import time\\nwhile time.process_time() < 2: pass'"
    )
    burn += "\nsubprocess.run([sys.executable, '-c', code])"
    write(
        place,
        "02_split",
        PARAMETERS,
        burn,
        "if not (folder / 'ok').exists():\n    raise ValueError",
    )
    with pytest.raises(ReportError):
        made(place, SHORT)
    spent = json.loads((place.parent / "outputs/lab/notebooks/02_split.json").read_text())["spent"]
    assert spent[0] >= 2 and 1 <= spent[1]
    (place.parent / "outputs/lab/ok").touch()
    made(place, SHORT)
    record = json.loads((place.parent / "outputs/lab/run.json").read_text())
    assert record["seconds"]["02_split"] >= spent[0] + 2
    assert record["processor_seconds"]["02_split"] >= spent[1] + 1

    before = record["seconds"]["02_split"]
    write(place, "02_split", PARAMETERS, "1")  # what it trained would still be there
    made(place, SHORT)
    record = json.loads((place.parent / "outputs/lab/run.json").read_text())
    assert record["seconds"]["02_split"] > before
    made(place, SHORT, seed=1)
    record = json.loads((place.parent / "outputs/lab/run.json").read_text())
    assert record["seconds"]["02_split"] < before


def test_planning_loads_no_torch(tmp_path):
    code = (
        "import sys\nfrom utkcmp.report.command import main\n"
        "for wrong in ('epoch=3', 'batch_size=5000'):\n"
        "    assert main(['-p', 'n_faces=60', '-p', wrong]) == 1\n"
        "assert not {'torch', 'ray', 'sphinx'} & set(sys.modules), 'loaded'"
    )
    environment = os.environ | {"UTKCMP_OUTPUTS": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("\n") == 2, done.stderr


@pytest.mark.parametrize(("home", "expect"), [("/", "/x"), ("/home/me", "~/x")])
def test_a_short_home_spoils_no_address(monkeypatch, home, expect):
    monkeypatch.setenv("HOME", home)
    got = shortened(f"see https://example.org/a at {home.rstrip('/')}/x, not at {home}2/y")
    assert got == f"see https://example.org/a at {expect}, not at {home}2/y"


# ---- the real notebooks --------------------------------------------------------------------------

REAL = {name: nbformat.read(PROJECT / f"notebooks/{name}.ipynb", 4) for name in NOTEBOOKS}


def code_of(name: str) -> list[str]:
    return [cell.source for cell in REAL[name].cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_given_every_parameter_that_it_names(name):
    used = set(re.findall(r"\bp\.(\w+)", "\n".join(code_of(name)))) & Params.model_fields.keys()
    assert used <= set(uses(NOTEBOOKS[name])), used - set(uses(NOTEBOOKS[name]))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_parameter_cell_says_the_defaults(name):
    cell = defaults(REAL[name])
    assert check(cell) == Params() and {"run", "data"} <= cell.keys() <= Params.model_fields.keys()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_variable_but_data_has_the_name_of_a_parameter(name):
    parameters, *others = code_of(name)
    bound = {
        node.id
        for node in ast.walk(ast.parse(TransformerManager().transform_cell("\n".join(others))))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert bound & Params.model_fields.keys() <= {"data"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_short(name):
    parameters, imports, *others = [source.splitlines() for source in code_of(name)]
    lines = [line for line in imports if line.strip()]
    while lines and not re.match(r"from|import|\)", lines[-1]):
        lines.pop()
    assert len(parameters) <= 20, "the parameter cell"
    assert len(lines) <= 10, "the import cell"
    assert sum(map(len, [parameters, imports, *others])) <= 150, "all code"


def test_sections_hold_each_parameter_once():
    assert [name for names in SECTIONS.values() for name in names] == list(Params.model_fields)
