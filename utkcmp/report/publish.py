"""Put what may be shown of a run where the repository keeps it, and its figures into README.

    python -m utkcmp.publish utkface-cpu

The copy, ``outputs/utkface/``, holds the book, all tables, and the models that answer, in half
precision with a model card each. It holds no face: a run that shows faces is refused.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from utkcmp.compare.onnx_export import write_graphs
from utkcmp.evaluation.registry import ABLATIONS, by_validation, model_folders
from utkcmp.files import replaced
from utkcmp.report.plan import ReportError
from utkcmp.report.summary import learned, model_card, results_figure, results_table
from utkcmp.run import CHOICE, PROJECT, PUBLISHED, WEIGHTS, Run, outputs_root

MOST_BYTES = 60_000_000  # of all weights together
FIGURE = "results.svg"
TABLES = ("results.csv", "run.json", CHOICE, "tuning/*.*", "repeats/*.csv", "comparison/*.csv")
TABLES += ("models/*/history.csv", "models/*/config.json", "report/**/*")
BEGIN, END = "<!-- published figures: written by `make publish` -->", "<!-- end -->"


def publish(run: Run, target: Run) -> None:
    """Copy a finished run to ``target``, which it replaces, with its best models.

    Raises ReportError if the run is not finished or shows faces.
    """
    record = run.read_record()
    for path in (run.results_csv, run.folder / CHOICE, run.folder / "report" / "index.html"):
        if not path.exists():
            raise ReportError(f"{run.folder} has no {path.name}: make its whole report first")
    if record.get("parameters", {}).get("show_faces") is not False:
        raise ReportError(f"{run.folder} shows faces: make its report with show_faces: false")
    with replaced(target.folder) as folder:
        for path in sorted(path for form in TABLES for path in run.folder.glob(form)):
            if path.is_file():
                copy = folder / path.relative_to(run.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        for name in published_models(run):
            _publish_model(run.model(name), folder / "models" / name)
        results_figure(run).savefig(folder / FIGURE, bbox_inches="tight", metadata={"Date": None})
    for name in published_models(run):
        (target.model(name) / "README.md").write_text(model_card(target, name), encoding="utf-8")


def published_models(run: Run) -> list[str]:
    """Folders of the models to publish: the one that answers, then by validation AUC, as far as
    ``MOST_BYTES`` goes; none that only shows a fault."""
    chosen = json.loads((run.folder / CHOICE).read_text())["model"]
    folders, ranked = model_folders(run), by_validation(run.read_results())
    known = [folders[name] for name in ranked if name in folders and name not in ABLATIONS]
    names, room = [], MOST_BYTES
    for name in dict.fromkeys([chosen, *known]):
        size = (run.model(name) / WEIGHTS).stat().st_size // 2
        if size <= room:
            names.append(name)
            room -= size
    return names


def _publish_model(source: Path, target: Path) -> None:
    weights = load_file(source / WEIGHTS)
    halved = {key: one.half() if one.is_floating_point() else one for key, one in weights.items()}
    save_file(halved, target / WEIGHTS)
    if (source / "calibration.json").exists():
        shutil.copyfile(source / "calibration.json", target / "calibration.json")
    write_graphs(target)


def readme_block(run: Run) -> str:
    """What README shows of a published run: figure, table, what was learned."""
    place = f"outputs/{run.folder.name}"
    record = run.read_record()
    faces, given = record["data"]["faces"], record["parameters"]
    size = f"{given['image_size']} pixels"
    if given.get("finetune"):
        size += " unless a model's name says otherwise"
    pairs = run.read_results().query("split == 'test'").groupby("protocol").n_pairs.max()
    return "\n".join(
        [
            BEGIN,
            f"![AUC of each model, beside what the course project reported]({place}/{FIGURE})",
            "",
            results_table(run),
            "",
            f"{faces:,} faces at {size}; accuracy and AUC with 95 % intervals (bootstrap "
            f"over faces) on {pairs['sample']:,} test pairs (the course project's protocol) "
            f"and on all {pairs['all']:,}; *reported*: accuracy and AUC of the course project, on "
            "its own split. What was learned:",
            "",
            *(f"- {one}" for one in learned(run)),
            "",
            f"The whole report lies in `{place}/report/index.html`.",
            END,
        ]
    )


def update_readme(run: Run, readme: Path) -> None:
    """Replace README's block of published figures. Raises ReportError if it has no such block."""
    replace_block(readme, readme_block(run))


def replace_block(readme: Path, block: str) -> None:
    """Put a block of lines in the place of the one that begins, and ends, with the same line.

    Raises ReportError if the file has no such block.
    """
    begin, *_, end = block.splitlines()
    text = readme.read_text(encoding="utf-8")
    before, mark, rest = text.partition(begin)
    _, close, after = rest.partition(end)
    if not (mark and close):
        raise ReportError(f"{readme} has no lines {begin!r} and {end!r} to write between")
    readme.write_text(before + block + after, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """The command line: publish a run and bring README up to date."""
    parser = argparse.ArgumentParser(prog="python -m utkcmp.publish", description=__doc__)
    parser.add_argument("run", help="folder below outputs/")
    run, target = Run(parser.parse_args(argv).run), Run(PUBLISHED)
    try:
        if run.folder.resolve() == target.folder.resolve():
            raise ReportError(f"{PUBLISHED} is where runs are published: give another run")
        publish(run, target)
        update_readme(target, PROJECT / "README.md")
    except (ReportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in target.folder.rglob("*") if path.is_file())
    shown = target.folder.relative_to(outputs_root().parent)
    models = sorted(path.parent.name for path in target.folder.glob(f"models/*/{WEIGHTS}"))
    print(f"{shown}: {size / 1e6:.1f} MB, models {', '.join(models)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
