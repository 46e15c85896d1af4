"""The report as a folder of HTML pages that needs no network: an overview, a page for each
notebook, and a page about the run itself."""

import contextlib
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from utkcmp.evaluation.registry import by_validation
from utkcmp.params import EMBEDDED
from utkcmp.report.execute import clock
from utkcmp.report.pages import TEMPLATES, Page, read_page
from utkcmp.report.plan import READ_TEST, ReportError
from utkcmp.run import Run

TITLE = "Who is older?"
QUESTION = "Given two face images, which person is older?"
PROTOCOLS = {
    "sample": ("Results on test faces", "A fixed sample of test pairs, the same for every model."),
    "all": (
        "Results on every test pair",
        "Every pair of test faces at least a year apart, for models that look at each face once.",
    ),
}
INTERVALS = "Small figures: 95 % intervals from a bootstrap over faces."


def render_site(run: Run) -> Path:
    """Render a run's executed notebooks to ``report/``; returns the path of index.html.

    The new pages take the place of the old ones all at once. Raises ReportError if no notebook
    has been executed.
    """
    executed = sorted(run.folder.glob("notebooks/[0-9]*.ipynb"))
    pages = [read_page(path) for path in executed if not path.stem.endswith(".partial")]
    if not pages:
        raise ReportError(f"{run.folder} holds no executed notebook to render")
    with replaced(run.folder / "report") as folder:
        for page in pages:
            for name, content in page.figures.items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
        for name in ("report.css", "report.js"):
            shutil.copyfile(TEMPLATES / name, folder / name)
        for name, html in _rendered(run, pages):
            (folder / name).write_text(html, encoding="utf-8")
    return run.folder / "report" / "index.html"


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of ``folder`` if the block succeeds."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)  # by a process that was killed
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield new
        new.chmod(0o755)
        if folder.exists():
            folder.rename(new.with_name(new.name + ".old"))
        new.rename(folder)
    finally:
        for left in (new, new.with_name(new.name + ".old")):
            shutil.rmtree(left, ignore_errors=True)


def _rendered(run: Run, pages: list[Page]) -> Iterator[tuple[str, str]]:
    record = run.read_record()
    drawn = all(page.parameters.get("data", EMBEDDED) == EMBEDDED for page in pages)
    shared = {
        "pages": pages,
        "site_title": TITLE,
        "run_name": run.folder.name,
        "drawn": drawn,
        "facts": facts(record, pages, drawn),
        "footer": "All faces on these pages are drawn by a program."
        if drawn
        else "UTKFace is for non-commercial research. Its ages are estimates; the labels of gender "
        "and ethnicity are the data set's.",
    }

    def page_html(template: str, file: str, **values: Any) -> tuple[str, str]:
        return file, _templates().get_template(template).render(file=file, **shared, **values)

    tables = result_tables(run.read_results())
    headlines = [page.headline for page in pages if page.headline]
    yield page_html(
        "index.html.j2",
        "index.html",
        title=TITLE,
        description=QUESTION,
        tables=tables,
        best=tables[0]["best"] if tables else None,
        headline=headlines[-1] if headlines else "",
        after=pages[0],
    )
    for before, page, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
        yield page_html(
            "cells.html.j2",
            page.file,
            title=page.title,
            description=page.takeaway,
            body=page.body,
            toc=page.toc,
            before=before or {"file": "index.html", "label": "Overview"},
            after=after or {"file": "about.html", "label": "About this run"},
        )
    given = {name: value for page in pages for name, value in page.given.items()}
    seconds = {page.name: record.get("seconds", {}).get(page.name) for page in pages}
    known = {name: value for name, value in seconds.items() if value is not None}
    yield page_html(
        "about.html.j2",
        "about.html",
        title="About this run",
        description="What was run, with what, and how to run it again.",
        commit=str(record.get("git_commit") or "").rstrip("+"),
        command=record.get("command", {}).get("make", "make report"),
        yaml=yaml.safe_dump(_plain(given), sort_keys=True).strip(),
        parameters=parameter_rows(pages),
        versions=[("python", record.get("python", "")), *record.get("packages", {}).items()],
        seconds=[(name, clock(value)) for name, value in known.items()]
        + [("together", clock(sum(known.values())))],
        before=pages[-1],
    )


def _plain(values: Any) -> Any:
    """Values of a notebook's metadata as plain dicts and lists, which YAML can write."""
    return json.loads(json.dumps(values))


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def facts(record: dict, pages: list[Page], drawn: bool) -> list[tuple[str, str]]:
    """What a reader wants to know of the run at a glance, as (name, value)."""
    data = record.get("data", {})
    faces, files = data.get("faces"), data.get("files")
    rejected = f", {files - faces} files rejected" if files and faces and files > faces else ""
    seconds = record.get("seconds", {})
    total = sum(seconds.get(page.name, 0) for page in pages)
    made = max(page.ended for page in pages)
    executed = record.get("executed", {})
    reads = sum(times for name, times in executed.items() if name.startswith(READ_TEST))
    found = {
        "Faces": f"{faces:,} {'drawn' if drawn else 'of UTKFace'}{rejected}" if faces else "",
        "Data fingerprint": str(data.get("fingerprint", ""))[:12],
        "Made": made[:16].replace("T", " ") + " UTC" if made else "",
        "Time of the last executions": clock(total) if total else "",
        "Test split read": f"by {reads} executed notebooks" if reads else "",
        "Device": str(record.get("device", "")),
        "PyTorch": str(record.get("packages", {}).get("torch", "")),
        "Commit": str(record.get("git_commit") or ""),
    }
    return [(name, value) for name, value in found.items() if value]


def parameter_rows(pages: list[Page]) -> list[dict[str, Any]]:
    """All parameters, one row for each value that some notebooks ran with."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for page in pages:
        for name, value in page.parameters.items():
            row = {"name": name, "value": repr(value), "given": name in page.given}
            rows.setdefault((name, repr(value)), row | {"on": []})["on"].append(page.number)
    ordered = sorted(rows.values(), key=lambda row: (row["name"], row["on"]))
    return [
        row | {"notebooks": "all" if len(row["on"]) == len(pages) else ", ".join(row["on"])}
        for row in ordered
    ]


def result_tables(results: pd.DataFrame) -> list[dict[str, Any]]:
    """The test rows of results.csv as the overview shows them, one table for each protocol.

    A table holds ``rows`` from the lowest to the highest AUC, the coin flip first, and ``best`` in
    words: the model that the validation pairs chose, whose figure no choice on test has flattered,
    or, where none was validated, the last row (``validated`` tells which).
    """
    if results.empty:
        return []
    tables = []
    validated = by_validation(results)
    for protocol, (title, caption) in PROTOCOLS.items():
        chosen = (results.split == "test") & (results.protocol == protocol)
        measured = results[chosen].sort_values("auc", na_position="first")
        if len(measured):
            coin = {"model": "coin flip", "loss": 0.6931, "accuracy": 0.5, "auc": 0.5}
            rows = [_result_row(pd.Series(coin)), *(_result_row(r) for _, r in measured.iterrows())]
            by_name = {row["model"]: row for row in rows}
            able = [name for name in validated if name in by_name]
            best = by_name[able[0]] if able else rows[-1]
            best["best"] = True
            tables.append(
                {
                    "protocol": protocol,
                    "title": title,
                    "caption": f"{caption} {INTERVALS}",
                    "columns": ["accuracy", "AUC", "pairs", "loss", "changes when swapped"],
                    "rows": rows,
                    "best": _in_words(best) | {"models": len(measured), "validated": bool(able)},
                }
            )
    return tables


def _result_row(row: pd.Series) -> dict[str, Any]:
    low, high = row.get("accuracy_low"), row.get("accuracy_high")
    cells = [
        {
            "value": _number(row.accuracy, "{:.1%}"),
            "interval": _range(low, high, "{:.1%}"),
        },
        {
            "value": _number(row.auc, "{:.3f}"),
            "interval": _range(row.get("auc_low"), row.get("auc_high"), "{:.3f}"),
        },
        {"value": _number(row.get("n_pairs"), "{:,.0f}")},
        {"value": _number(row.get("loss"), "{:.3f}")},
        {"value": _number(row.get("swap_disagreement"), "{:.1%}")},
    ]
    bounds = [None if pd.isna(value) else _position(value) for value in (low, high)]
    marks = {"at": _position(row.accuracy), "low": bounds[0], "high": bounds[1]}
    return {"model": row.model, "cells": cells, **marks}


def _in_words(row: dict[str, Any]) -> dict[str, str]:
    accuracy, auc, pairs = row["cells"][:3]
    return {
        "model": row["model"],
        "pairs": pairs["value"],
        "accuracy": accuracy["value"],
        "interval": accuracy["interval"],
        "auc": auc["value"],
    }


def _position(accuracy: float) -> float:
    return round(min(max((accuracy - 0.5) * 2, 0), 1) * 140, 1)  # pixels: 50 % to 100 %


def _number(value: float | None, form: str) -> str:
    return "–" if value is None or pd.isna(value) else form.format(value).replace("%", " %")


def _range(low: float | None, high: float | None, form: str) -> str:
    if low is None or pd.isna(low) or pd.isna(high):
        return ""
    return f"{form.format(low).rstrip('%')}–{form.format(high).rstrip('%')}"
