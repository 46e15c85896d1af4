"""The report as a book: Sphinx with MyST-NB turns the executed notebooks, and a few pages made from
templates, into HTML that can be opened from disk, offline.

This module is also the Sphinx extension that writes formulas as MathML, which needs no script.
"""

import re
import shutil
import sys
from datetime import datetime
from html import unescape
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml
from bleach.css_sanitizer import CSSSanitizer
from bleach.sanitizer import Cleaner

from utkcmp.files import replaced
from utkcmp.params import check
from utkcmp.report import summary
from utkcmp.report.execute import clock
from utkcmp.report.plan import NOTEBOOKS, ReportError, defaults, uses
from utkcmp.run import Run

TABLE_TAGS = frozenset(
    "a abbr b br caption code div em i p pre small span strong sub sup table tbody td tfoot th "
    "thead tr".split()
)
TABLE_ATTRIBUTES = ["class", "colspan", "rowspan", "scope", "style"]
TABLE_STYLES = ["background-color", "color", "font-weight", "text-align"]
UNUSED = ("objects.inv", ".buildinfo*", "locales", "*.map", "*-macros.html", "logo_colab.png")
FOLDED = {"parameters": "Parameters", "injected-parameters": "Parameters set for this run"}
MANY_TITLES = 5  # of sheets of faces, where each tile has one
_DEBRIS = re.compile(r"\s*\[?<[^<>]*( at 0x[0-9a-f]+|Figure size|Axes)")
_SVG_TEXT = re.compile(r'<g id="text_\d+">\s*<!-- (.*?) -->(.*?)</g>\s*</g>', re.S)


class Chapter(NamedTuple):
    """An executed notebook as a page of the book.

    number, label: of its name, for the table of contents; parameters: all values that it ran with;
    given: those of them that were set for this run.
    """

    name: str
    number: str
    label: str
    notebook: nbformat.NotebookNode
    title: str
    takeaway: str
    parameters: dict[str, Any]
    given: dict[str, Any]
    ended: datetime | None


def render_book(run: Run) -> Path:
    """Render a run's executed notebooks to ``report/``; returns the path of index.html.

    Replaces the old book atomically; Sphinx warns on stderr. Raises ReportError if none was run.
    """
    executed = sorted(run.folder.glob("notebooks/[0-9]*.ipynb"))
    chapters = [read_chapter(path) for path in executed if not path.stem.endswith(".partial")]
    if not chapters:
        raise ReportError(f"{run.folder} holds no executed notebook to render")
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    # The namespace forgets afterwards what extensions register, else a second book gives warnings.
    with docutils_namespace(), replaced(run.folder / "report") as folder:
        source = folder / ".source"  # inside, so that nothing else is left behind by a kill
        write_sources(run, chapters, source)
        made = source / ".made" / "html"  # MyST-NB also writes beside it
        options = yaml.safe_load((summary.TEMPLATES / "conf.yaml").read_text(encoding="utf-8"))
        Sphinx(source, None, made, source / ".trees", "html", options, None, sys.stderr).build()
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns(*UNUSED), dirs_exist_ok=True)
        shutil.rmtree(source)
    return run.folder / "report" / "index.html"


def read_chapter(path: Path) -> Chapter:
    """Read an executed notebook, fold its code and drop outputs that are not results."""
    notebook = nbformat.read(path, as_version=4)
    facts = notebook.metadata.get("papermill", {})
    given = dict(facts.get("parameters") or {})
    notebook.metadata.pop("widgets", None)
    for cell in (one for one in notebook.cells if one.cell_type == "code"):
        tags = cell.metadata.get("tags", [])
        name = next((name for tag, name in FOLDED.items() if tag in tags), "Code")
        cell.metadata["tags"] = [*tags, "hide-input"]
        cell.metadata["mystnb"] = {"code_prompt_show": name, "code_prompt_hide": name}
        cell.source = re.sub(r"(?m)^# NBVAL_\w+\n?", "", cell.source)
        cell.outputs = [output for output in cell.outputs if _is_result(output)]
        for output in cell.outputs:
            _make_safe(output.get("data", {}))
    _describe_figures(notebook.cells)
    first = notebook.cells[0].source if notebook.cells else ""
    title, takeaway = (re.findall(rf"(?m)^{mark} (.+)", first) for mark in ("#", ">"))
    number, _, label = path.stem.partition("_")
    used = uses(NOTEBOOKS[path.stem]) if path.stem in NOTEBOOKS else ()
    parameters, ended = defaults(notebook) | given, facts.get("end_time")
    return Chapter(
        name=path.stem,
        number=number.lstrip("0"),
        label=label.replace("_", " ").capitalize(),
        notebook=notebook,
        title=(title or [path.stem])[0],
        takeaway=(takeaway or [""])[0],
        parameters=parameters | check(parameters).model_dump(include={*used}),
        given=given,
        ended=datetime.fromisoformat(ended) if ended else None,
    )


def _is_result(output: nbformat.NotebookNode) -> bool:
    """Whether an output is a result, not an error, a progress bar or the repr of an object."""
    data = output.get("data", {})
    if output.output_type == "error" or any("jupyter.widget" in kind for kind in data):
        return False
    if not data.get("text/html", "table").strip():  # a display that has ended
        return False
    return set(data) != {"text/plain"} or not _DEBRIS.match(data["text/plain"])


def _make_safe(data: dict[str, str]) -> None:
    """Escape or remove all HTML of an output except for tables."""
    if "text/html" in data:
        html = re.sub(r"(?s)<style[^<]*</style>", "", data["text/html"])
        styles = CSSSanitizer(allowed_css_properties=TABLE_STYLES)
        cleaner = Cleaner(tags=TABLE_TAGS, attributes=TABLE_ATTRIBUTES, css_sanitizer=styles)
        # MyST-NB's dark theme knows only tables of this class.
        html = cleaner.clean(html).replace("<table>", '<table class="dataframe">')
        data["text/html"] = html
    if "text/markdown" in data:  # code between backquotes is text anyway
        parts = re.split(r"(`+.+?`+)", data["text/markdown"], flags=re.S)
        parts[::2] = [part.replace("<", r"\<").replace("![", r"!\[") for part in parts[::2]]
        data["text/markdown"] = "".join(parts)


def _describe_figures(cells: list[nbformat.NotebookNode]) -> None:
    """Give figures an alt text: their titles, or the heading above, and the sentence below."""
    heading, waiting = "", None
    for cell in cells:
        texts = [cell.source] if cell.cell_type == "markdown" else []
        outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
        texts += [data["text/markdown"] for data in outputs if "text/markdown" in data]
        for text in texts:
            heading = (re.findall(r"(?m)^#+ (.+)", text) or [heading])[-1]
            if waiting and not re.match(r"\s*[#|-]", text):
                sentence = re.split(r"(?<=[.!?])\s", text.strip())[0][:250]
                stop = "" if waiting["alt"].endswith("?") else "."
                waiting["alt"] += f"{stop} {re.sub(r'[*`]', '', sentence)}"
            waiting = None
        if any(kind.startswith("image/") for data in outputs for kind in data):
            svg = "".join(data.get("image/svg+xml", "") for data in outputs)
            bold = [unescape(text) for text, glyphs in _SVG_TEXT.findall(svg) if "-Bold-" in glyphs]
            titles = "; ".join(dict.fromkeys(bold)) if len(bold) < MANY_TITLES else heading
            text = titles or heading
            cell.metadata.mystnb["image"] = {"alt": text}
            waiting = cell.metadata.mystnb.image  # the copy that nbformat made


def write_sources(run: Run, chapters: list[Chapter], source: Path) -> None:
    """Write Sphinx's input: notebooks, pages made from templates, references, figures."""
    static = source / "static"
    static.mkdir(parents=True)
    shutil.copyfile(summary.TEMPLATES / "book.css", static / "book.css")
    shutil.copyfile(summary.TEMPLATES / "references.bib", source / "references.bib")
    font = resources.files("ziamath.fonts") / "STIXTwoMath-Regular.ttf"
    (static / font.name).write_bytes(font.read_bytes())
    facts = summary.facts(run, chapters) | {"chapters": chapters, "clock": clock}
    there = {chapter.name for chapter in chapters}
    for chapter in chapters:
        made = summary.template("_executed").render(facts, chapter=chapter)
        chapter.notebook.cells.insert(1, nbformat.v4.new_markdown_cell(made))
        for cell in chapter.notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _linked(cell.source, there)
        nbformat.write(chapter.notebook, source / f"{chapter.name}.ipynb")
    for name, figure in summary.figures(run, facts["ages"]).items():
        figure.savefig(source / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    for path in summary.TEMPLATES.glob("[!_]*.md.j2"):
        name = path.name.removesuffix(".md.j2")
        if page := summary.template(name).render(facts).strip():
            (source / f"{name}.md").write_text(_linked(page, there) + "\n", encoding="utf-8")


def _linked(text: str, there: set[str]) -> str:
    """Replace links to notebooks that were not executed by their text.

    >>> _linked("See [one](01_a.ipynb) and [two](02_b.ipynb#c).", {"01_a"})
    'See [one](01_a.ipynb) and two.'
    """
    link = r"\[([^\]]*)\]\((\w+)\.ipynb[^)]*\)"
    return re.sub(link, lambda found: found[0] if found[2] in there else found[1], text)


def setup(app) -> dict[str, bool]:
    """Register the MathML writer, and the fix of the reference list's ARIA role."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    app.connect("html-page-context", _without_empty_roles)
    return {"parallel_read_safe": True}


def _without_empty_roles(app, page, template, context, tree) -> None:
    if "body" in context:  # docutils' reference list has no list items
        context["body"] = context["body"].replace(
            '<div role="list" class="citation', '<div class="citation'
        )


def _formula(writer, node) -> None:
    from docutils.nodes import SkipNode, math
    from latex2mathml.converter import convert

    inline = isinstance(node, math)
    formula = convert(node.astext(), display="inline" if inline else "block")
    writer.body.append(formula if inline else f'<div class="math" tabindex="0">{formula}</div>')
    raise SkipNode
