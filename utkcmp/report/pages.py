"""One executed notebook as the inside of an HTML page: cells, figures, table of contents.

nbconvert turns the cells into HTML with the template in ``templates/notebook``; what is left to do
here is to take out what no reader wants (progress bars, warnings), to let nothing from the data act
as HTML, and to dress tables and figures.
"""

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from bleach.css_sanitizer import CSSSanitizer
from bleach.sanitizer import Cleaner
from bs4 import BeautifulSoup, Tag
from markupsafe import Markup, escape
from nbconvert import HTMLExporter
from traitlets.config import Config

from utkcmp.report.plan import defaults

TEMPLATES = Path(__file__).parent / "templates"
ALLOWED_TAGS = frozenset(
    "a abbr b blockquote br caption code dd del details div dl dt em figcaption figure h1 h2 h3 h4 "
    "h5 h6 hr i img li ol p pre s small span strong sub summary sup table tbody td tfoot th thead "
    "tr u ul".split()
)
ALLOWED_STYLES = (
    "background-color color display flex-wrap font-size font-weight gap grid-template-columns "
    "margin max-width padding text-align vertical-align width"
).split()
_NUMBER = re.compile(r"[-+−±≈<>~]?\s*\d[\d\s.,:%+\-−–±×e()\[\]/]*")
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_PROGRESS = re.compile(r"\d+%\||\d(it/s|s/it)\b|\?(it/s|s/it)\b")
_DEBRIS = re.compile(r"\s*\[?<[^<>]*( at 0x[0-9a-f]+|Figure size|Axes)")
_EMPTY = {"NaN", "nan", "NaT", "<NA>"}


@dataclass(frozen=True)
class Page:
    """One notebook's page.

    body and headline are HTML (headline: the outputs of cells tagged ``headline``, for the
    overview); toc: the H2 headings as {"id", "text"}; figures: contents by relative path;
    parameters: all values the notebook ran with; given: the names among them that were set.
    """

    name: str
    title: str
    takeaway: str
    body: Markup
    headline: Markup
    toc: list[dict[str, str]]
    figures: dict[str, bytes]
    parameters: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    ended: str = ""

    @property
    def file(self) -> str:
        return f"{self.name}.html"

    @property
    def number(self) -> str:
        return self.name.partition("_")[0].lstrip("0")

    @property
    def label(self) -> str:
        """The short name in the navigation."""
        return self.name.partition("_")[2].replace("_", " ").capitalize()


def read_page(path: Path) -> Page:
    """Read an executed notebook and make its page."""
    notebook = nbformat.read(path, as_version=4)
    facts = notebook.metadata.get("papermill", {})
    given = dict(facts.get("parameters") or {})
    tidy(notebook)
    resources = {"unique_key": path.stem, "output_files_dir": "figures"}
    html, resources = _exporter().from_notebook_node(notebook, resources)
    soup = BeautifulSoup(html, "html.parser")
    dress(soup)
    title, takeaway = soup.find("h1"), soup.find("blockquote")
    headline = soup.select(".tag-headline > .output")
    return Page(
        name=path.stem,
        title=_text(title) or path.stem,
        takeaway=_text(takeaway),
        body=Markup(soup),
        headline=Markup("\n".join(map(str, headline))),
        toc=[{"id": head["id"], "text": _text(head)} for head in soup.find_all("h2")],
        figures=dict(resources["outputs"]),
        parameters=defaults(notebook) | given,
        given=given,
        ended=str(facts.get("end_time") or ""),
    )


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Take out of a notebook's outputs what is no result: warnings, progress bars, object names."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_result(output)]
            cell.source = re.sub(r"(?m)^# NBVAL_\w+\n?", "", cell.source)


def _is_result(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream":
        output.text = settle(output.text)
        return output.name == "stdout" and bool(output.text.strip())
    if output.output_type == "error":
        return False
    kinds = set(output.data)
    if any(kind.startswith("application/vnd.jupyter.widget") for kind in kinds):
        return False
    if kinds == {"text/plain"}:
        output.data["text/plain"] = settle(output.data["text/plain"])
        return not _DEBRIS.match(output.data["text/plain"])
    if {"image/png", "image/jpeg"} <= kinds:
        del output.data["image/jpeg"]  # one of the two is shown
    return kinds != {"application/javascript"}


def settle(text: str) -> str:
    r"""Printed text as a terminal leaves it: overwritten lines, colours and progress bars gone.

    >>> settle("loss 0.7\rloss 0.5\n 50%|#####     | 1/2 [00:01<00:01, 1.0s/it]\n")
    'loss 0.5\n'
    """
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in _ANSI.sub("", text).split("\n")]
    return "\n".join(line for line in lines if not _PROGRESS.search(line))


@functools.cache
def _exporter() -> HTMLExporter:
    config = Config()
    config.HTMLExporter.preprocessors = ["nbconvert.preprocessors.ExtractOutputPreprocessor"]
    exporter = HTMLExporter(
        config=config,
        template_name="notebook",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_anchor_links=True,
    )
    filters = {"safe_html": safe_html, "figure": figure, "code_label": code_label}
    for name, function in filters.items():
        exporter.register_filter(name, function)
    return exporter


def safe_html(html: str) -> str:
    """HTML of which only the harmless part works; the rest is shown as the text it is.

    >>> safe_html("<b>bold</b> <script>alert(1)</script>")
    '<b>bold</b> &lt;script&gt;alert(1)&lt;/script&gt;'
    """
    html = re.sub(r"(?s)<style[^<]*</style>", "", html)  # pandas adds them to its tables
    return _cleaner().clean(html)


@functools.cache
def _cleaner() -> Cleaner:
    return Cleaner(
        tags=ALLOWED_TAGS,
        attributes=_allowed,
        protocols={"http", "https", "mailto", "data"},
        css_sanitizer=CSSSanitizer(allowed_css_properties=ALLOWED_STYLES),
    )


def _allowed(tag: str, name: str, value: str) -> bool:
    if name == "href":
        return tag == "a" and not value.strip().lower().startswith("data:")
    if name == "src":  # nothing is fetched from elsewhere
        return tag == "img" and value.startswith("data:image/")
    names = {"alt", "class", "colspan", "height", "open", "rowspan", "scope", "start", "style"}
    return name in names | {"title", "width"}


def figure(output: nbformat.NotebookNode, kind: str) -> str:
    """An image output as a link to the file that holds it; the alternative text comes later."""
    file = escape(output.metadata["filenames"][kind])
    about = output.metadata.get(kind, {})
    size = {name: about[name] for name in ("width", "height") if name in about}
    if kind == "image/svg+xml":  # matplotlib's sizes are in points, the page's in pixels
        found = re.findall(r'\b(width|height)="([\d.]+)pt"', output.data[kind][:2000])
        size = {name: round(float(points) * 4 / 3) for name, points in found}
    size = "".join(f' {name}="{int(value)}"' for name, value in size.items())
    alt = escape(about.get("alt", output.metadata.get("alt", "")))
    return f'<a class="figure" href="{file}"><img src="{file}" alt="{alt}"{size}></a>'


def code_label(cell: nbformat.NotebookNode) -> str:
    """What a folded code cell is called."""
    tags = cell.metadata.get("tags", [])
    if "injected-parameters" in tags:
        return "parameters set for this run"
    return "parameters" if "parameters" in tags else "code"


def dress(soup: BeautifulSoup) -> None:
    """Give headings their anchors, images their text, links their targets, tables their dress."""
    taken: set[str] = set()
    for head in soup.find_all(["h1", "h2", "h3", "h4"]):
        slug = re.sub(r"[^a-z0-9]+", "-", _text(head).lower()).strip("-") or "section"
        number = next(n for n in range(1, 10_000) if f"{slug}-{n}" not in taken)
        head["id"] = slug if number == 1 else f"{slug}-{number}"
        taken.add(f"{slug}-{number}")
    for link in soup.find_all("a", href=True):
        link["href"] = re.sub(r"^([\w]+)\.ipynb\b", r"\1.html", link["href"])
    for image in soup.find_all("img"):
        if not image.get("src"):  # it was to come from elsewhere
            image.decompose()
        elif not image.get("alt") or image["alt"].startswith("No description"):
            image["alt"] = _described(image)
    for pre in soup.find_all("pre"):
        pre["tabindex"] = "0"  # it may scroll, and not everyone has a mouse
    for number, table in enumerate(soup.find_all("table"), start=1):
        dress_table(table)
        title = table.find_previous(["h1", "h2", "h3"])
        frame = {"class": "scroll", "role": "region", "tabindex": "0"}
        label = f"Table {number}: {_text(title)}" if title else f"Table {number}"
        table.wrap(soup.new_tag("div", attrs=frame | {"aria-label": label}))


def _described(image: Tag) -> str:
    head = image.find_previous(["h1", "h2", "h3"])
    after = image.find_next(["p", "li", "h1", "h2", "h3"])
    sentence = _text(after) if after is not None and after.name in ("p", "li") else ""
    sentence = re.split(r"(?<=[.:!?])\s", sentence, maxsplit=1)[0][:200]
    return ". ".join(filter(None, ["Figure: " + _text(head) if head else "Figure", sentence]))


def dress_table(table: Tag) -> None:
    """Mark a table's number columns and its empty cells; take out a bare row count."""
    for name in ("border", "class", "style"):
        table.attrs.pop(name, None)
    heads = table.select("thead tr")
    body = [row.find_all(["th", "td"], recursive=False) for row in table.select("tbody tr")]
    if len(heads) == 2:  # pandas writes the index's name on a line of its own
        first, second = ([cell for cell in row.find_all("th")] for row in heads)
        if len(first) == len(second) and not any(_text(cell) for cell in second[1:]):
            first[0].string = _text(second[0])
            heads.pop().decompose()
    if not body or len(heads) != 1 or table.select("[rowspan], [colspan]"):
        return
    columns = list(zip(heads[0].find_all(["th", "td"]), *body, strict=False))
    if [_text(cell) for cell in columns[0]] == ["", *map(str, range(len(body)))]:
        _remove(columns.pop(0))
    for head, *cells in columns:
        if _text(head):
            head["scope"] = "col"
        else:
            head.name = "td"
        for cell in cells:
            if _text(cell) in _EMPTY:
                cell.string = "–"
        filled = [_text(cell) for cell in cells if _text(cell) != "–"]
        if filled and all(_NUMBER.fullmatch(text) for text in filled):
            for cell in (head, *cells):
                cell["class"] = "num"
    _join_intervals({_text(column[0]): column for column in columns})
    for head in heads[0].find_all("th"):
        if len(name := _text(head)) > 12:
            head.string = name.replace("_", "_\u200b")  # it may break there


def _join_intervals(columns: dict[str, tuple[Tag, ...]]) -> None:
    """Put the columns ``x_low`` and ``x_high`` as one small interval behind the numbers of x."""
    for name in list(columns):
        low, high = columns.get(f"{name}_low"), columns.get(f"{name}_high")
        if low and high:
            for cell, *bounds in zip(columns[name][1:], low[1:], high[1:], strict=True):
                if "–" not in (found := [_text(bound) for bound in bounds]):
                    interval = Tag(name="span", attrs={"class": "interval"})
                    interval.string = "–".join(found)
                    cell.extend([" ", interval])
            _remove(low)
            _remove(high)


def _remove(cells: tuple[Tag, ...]) -> None:
    for cell in cells:
        cell.decompose()


def _text(tag: Tag | None) -> str:
    return " ".join(tag.get_text().split()) if tag is not None else ""
