"""Put what may be shown of a run where the repository keeps it, and its figures into README.

    python -m utkcmp.report.publish utkface-cpu

The copy, ``outputs/utkface/``, holds the report, all tables, which faces were in which split, and
the model that answers, in half precision with its card. It holds no face and no face's name. A
run of several commits or parameters, or with a page older than what it was made from, is refused.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file

from utkcmp.compare.onnx_export import write_graphs
from utkcmp.evaluation.registry import PEER, PEER_SIZE
from utkcmp.files import read_json, replaced, write_csv
from utkcmp.report import plan
from utkcmp.report.execute import clock
from utkcmp.report.plan import FOLDER, NOTEBOOKS, Notebook, ReportError
from utkcmp.report.summary import learned, model_card, results_figure, results_table, template
from utkcmp.run import CALIBRATION, CHOICE, PROJECT, PUBLISHED, WEIGHTS, Run, git_commit

MOST_BYTES = 30_000_000  # of all that is published
FIGURE = "results.svg"
SPLIT = ["sha256", "split", "evaluate"]  # of faces.csv, for others to be measured on these faces
TABLES = ("results.csv", "run.json", CHOICE, "tuning/*.*", "repeats/*.csv", "comparison/*.csv")
TABLES += ("experiments/*.csv", "models/*/history.csv", "models/*/config.json", "report/**/*")
WRITTEN = (f"outputs/{PUBLISHED}", "README.md")  # written by this command
BEGIN, END = "<!-- published figures: written by `make publish` -->", "<!-- end -->"


def publish(run: Run, target: Run, graph: Mapping[str, Notebook] = NOTEBOOKS) -> None:
    """Copy a finished run, with the chosen model, to ``target``, which is replaced.

    graph: the notebooks. Raises ReportError if it is not one finished run without faces.
    """
    check_publishable(run, FOLDER, graph)
    answers = read_json(run.folder / CHOICE)["model"]
    forms = (*TABLES, f"models/{answers}/{CALIBRATION}")
    with replaced(target.folder) as place:
        for path in (path for form in forms for path in run.folder.glob(form)):
            if path.is_file():
                copy = place / path.relative_to(run.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        faces = run.read_faces().query("status == 'ok'")
        write_csv(faces[SPLIT].drop_duplicates().sort_values("sha256"), place / "faces.csv")
        small, weights = place / "models" / answers, load_file(run.model(answers) / WEIGHTS)
        halved = {n: one.half() if one.is_floating_point() else one for n, one in weights.items()}
        save_file(halved, small / WEIGHTS)
        write_graphs(small)
        results_figure(run).savefig(place / FIGURE, bbox_inches="tight", metadata={"Date": None})
        sizes = {path: path.stat().st_size for path in place.rglob("*") if path.is_file()}
        if (total := sum(sizes.values())) > MOST_BYTES:
            largest = max(sizes, key=sizes.get)
            raise ReportError(
                f"{total / 1e6:.0f} MB would be published, of which {largest.relative_to(place)} "
                f"has {sizes[largest] / 1e6:.0f}: expected {MOST_BYTES / 1e6:.0f} or less"
            )
    (target.model(answers) / "README.md").write_text(model_card(target, answers), encoding="utf-8")


def check_publishable(run: Run, folder: Path, graph: Mapping[str, Notebook]) -> None:
    """Raise ReportError with the page, commit, file or model that makes a run unpublishable."""
    record = run.read_record()
    for path in (run.results_csv, run.folder / CHOICE, run.folder / "report" / "index.html"):
        if not path.exists():
            raise ReportError(f"{run.folder} has no {path.name}: make its whole report first")
    if record.get("parameters", {}).get("show_faces") is not False:
        raise ReportError(f"{run.folder} shows faces: make its report with show_faces: false")

    records, given = {name: plan.read_record(run, name) for name in graph}, {}
    for one in records.values():
        given |= one.get("parameters", {})
    index = record.get("data", {}).get("index", "")
    for step in plan.plan(plan.read_notebooks(folder, graph), graph, given, index, folder):
        page = run.folder / "report" / f"{step.name}.html"
        made = plan.record_path(run, step.name).with_suffix(".ipynb")
        why = plan.outdated(run, step)
        if not why and not (page.exists() and page.stat().st_mtime >= made.stat().st_mtime):
            why = "is older than its notebook"
        if why:
            raise ReportError(f"page {step.name} {why}: make the report of this run again")

    commits = {f"page {name}": one["commit"] for name, one in records.items()}
    commits["the rendering"] = record.get("commits", {}).get("report")
    commits["this checkout"] = str(git_commit()).removesuffix("+")
    usual = Counter(commits.values()).most_common(1)[0][0]
    anew = "make all of it, its trainings included, from one commit, in a new folder (SET=run=name)"
    for what, commit in commits.items():
        if not commit or "+" in commit or commit == "None":
            raise ReportError(f"{what} has no clean commit ({commit}): commit all files and {anew}")
        if commit != usual or ", " in usual:
            raise ReportError(f"{what} is from commit {commit}, the rest from {usual}: {anew}")
    if changed := changed_files():
        raise ReportError(f"{changed[0]} differs from its commit: commit it, make the report again")

    results = run.read_results()
    tested = results[results.split == "test"].model
    for name in tested[~tested.isin(results[results.split == "val"].model)]:
        raise ReportError(f"{name} has no row of validation pairs in {run.results_csv.name}")


def changed_files() -> list[str]:
    """Files of this checkout that differ from its commit, except those that publishing writes."""
    command = ["git", "status", "--porcelain", "--", ".", *(f":!{path}" for path in WRITTEN)]
    status = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    return [line[3:] for line in status.stdout.splitlines()]


def readme_block(run: Run) -> str:
    """README's section on a published run: figure, table, what was learned."""
    pairs = run.read_results().query("split == 'test'").groupby("protocol").n_pairs.max()
    block = template("_readme").render(
        folder=f"outputs/{run.folder.name}",
        figure=FIGURE,
        record=run.read_record(),
        pairs=pairs,
        peer=PEER_SIZE if PEER in run.read_results().model.values else None,
        results=results_table(run),
        learned=learned(run),
        clock=clock,
    )
    return f"{BEGIN}\n{block}\n{END}"


def replace_block(readme: Path, block: str) -> None:
    """Replace the block of lines in ``readme`` that has the same first and last line.

    Raises ReportError if the file has no such block.
    """
    begin, *_, end = block.splitlines()
    lines = f"{re.escape(begin)}.*?{re.escape(end)}"
    text = readme.read_text(encoding="utf-8")
    if not re.search(lines, text, re.S):
        raise ReportError(f"{readme} has no lines {begin!r} and {end!r} to write between")
    readme.write_text(re.sub(lines, lambda _: block, text, count=1, flags=re.S), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run the command line: publish a run and update README."""
    parser = argparse.ArgumentParser(prog="python -m utkcmp.report.publish", description=__doc__)
    parser.add_argument("run", help="folder below outputs/")
    run, target = Run(parser.parse_args(argv).run), Run(PUBLISHED)
    try:
        if run.folder.resolve() == target.folder.resolve():
            raise ReportError(f"{PUBLISHED} is where runs are published: give another run")
        publish(run, target)
        replace_block(PROJECT / "README.md", readme_block(target))
    except (ReportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in target.folder.rglob("*") if path.is_file())
    shown = Path(*target.folder.parts[-2:])
    print(f"{shown}: {size / 1e6:.1f} MB, answers by {read_json(target.folder / CHOICE)['model']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
