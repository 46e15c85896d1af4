"""The book: complete, with folded code, only results among the outputs, and no active HTML."""

import base64
import json
from urllib.parse import unquote

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hostile import hostile_names
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from sphinx.util.docutils import additional_nodes

from utkcmp.data.archives import printable
from utkcmp.files import replaced
from utkcmp.report.book import read_chapter, render_book
from utkcmp.report.plan import ReportError
from utkcmp.report.summary import accuracy_from_error, model_card, results_table
from utkcmp.run import Run

PYTHON = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
TITLED = '<g id="text_1">\n<!-- Loss &amp; AUC -->\n<g><use href="#DejaVuSans-Bold-4c"/></g></g>'
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="36pt">{TITLED}</svg>'
PNG = base64.b64encode(b"\x89PNG not really").decode()
HOSTILE = "<script>alert(1)</script>"
TABLE = f"""<div><style scoped>td {{ color: red }}</style><table border="1" class="dataframe">
<tr><th>file</th></tr><tr><td>{HOSTILE}.jpg</td></tr><tr><td onclick="alert(2)">b</td></tr></table>
"""


def shown(**data):
    kinds = {"svg": "image/svg+xml", "png": "image/png", "html": "text/html"}
    kinds |= {"md": "text/markdown", "text": "text/plain"}
    data = {kinds.get(kind, kind): value for kind, value in data.items()}
    return new_code_cell("draw()", outputs=[new_output("display_data", data=data)])


def printed(text, name="stdout"):
    return new_code_cell("print()", outputs=[new_output("stream", name=name, text=text)])


def notebook_of(*cells):
    title = new_markdown_cell("# A title & more\n\n> The *takeaway* in a line.")
    parameters = new_code_cell('run = "x"\nepochs = 3', metadata={"tags": ["parameters"]})
    given = {"epochs": 5, "search_space": {"batch_size": [32, 64]}, "data": "a|b`c"}
    papermill = {"parameters": given, "end_time": "2026-01-02T03:04:05+00:00"}
    return new_notebook(
        cells=[title, parameters, *cells], metadata={"papermill": papermill} | PYTHON
    )


def write(run, name, *cells):
    path = run.folder / f"notebooks/{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook_of(*cells), path)
    return path


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "r")


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A book of two notebooks with all kinds of cells: its folder, pages and warnings."""
    run = Run(tmp_path_factory.mktemp("book") / "r")
    names = [printable(name) for name in hostile_names()]
    table = pd.DataFrame({"file": names, "age": range(len(names))})
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "FloatProgress(0)"}
    error = new_output("error", ename="ValueError", evalue="x", traceback=["Traceback: x"])
    fetched = "<img src='http://elsewhere/x.png' onerror='alert(3)'> ![x](http://elsewhere/y.png)"
    write(
        run,
        "01_data_exploration",
        new_markdown_cell("See [the split](02_split.ipynb).\n\n## Names"),
        shown(html=table.to_html()),
        shown(text=str(table)),
        *[shown(md=f"The first is {name}.") for name in names],
        *[shown(md=text) for text in (f"[x](javascript:alert(1)) {HOSTILE} `{HOSTILE}`", fetched)],
        shown(html=TABLE),
        printed(HOSTILE),
        shown(text=HOSTILE),
    )
    write(
        run,
        "02_split",
        new_markdown_cell("## Losses"),
        shown(svg=SVG),
        new_markdown_cell("The *line* rises. It says more.\n\n$x^2$"),
        shown(png=PNG),
        new_code_cell("# NBVAL_CHECK_OUTPUT\n1 + 1"),
        printed("UserWarning: beware", "stderr"),
        shown(**widget),
        shown(text="<Figure size 640x480 with 1 Axes>"),
        shown(html="", text="<IPython.core.display.HTML object>"),
        shown(html="<table id='T_1'><tr><th>styled</th></tr></table>"),
        shown(text="[<matplotlib.lines.Line2D at 0x7f00>]"),
        new_code_cell("x", outputs=[error]),
        shown(md="| a | b |\n|---|--:|\n| x | 1 |"),
    )
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", type("Stream", (), {"write": said.append, "flush": str}))
        folder = render_book(run).parent
    pages = {}
    for path in set(folder.glob("*.html")) - {folder / "search.html"}:
        pages[path.stem] = BeautifulSoup(path.read_text("utf-8"), "html.parser")
    return folder, pages, said


def test_sphinx_had_nothing_to_warn_of_nor_in_a_second_book(book):
    assert book[2] == [] and not additional_nodes


def test_every_link_and_image_resolves(book):
    folder, pages, _ = book
    own = {"index", "methods", "limits", "about", "references"}
    assert set(pages) == own | {"01_data_exploration", "02_split"}
    for page in pages.values():
        for tag in page.select_one("article").find_all(["a", "img"]):
            target = tag.get("href", tag.get("src"))
            path, _, anchor = unquote(target).partition("#")
            if not path.startswith("http"):
                assert not path or (folder / path).is_file(), target
                assert not anchor or path or page.find(id=anchor), target
    assert pages["01_data_exploration"].select_one('article a[href="02_split.html"]')


def test_nothing_from_the_data_acts_as_html(book):
    for page in book[1].values():
        article = page.select_one("article")
        assert not article.find_all(["script", "iframe", "object", "style", "form", "base"])
        for tag in article.find_all(True):
            assert not any(key.startswith("on") for key in tag.attrs)
            assert not str(tag.get("href", "")).startswith("javascript")
            assert not str(tag.get("src", "")).startswith("http")
    text = book[1]["01_data_exploration"].select_one("article").get_text()
    assert text.count(HOSTILE) == 5 and HOSTILE + ".jpg" in text


def test_every_hostile_name_is_text_in_its_table(book):
    table = book[1]["01_data_exploration"].find("table")
    got = [row.find_all("td")[0].text for row in table.select("tbody tr")]
    assert got == [printable(name) for name in hostile_names()]


def test_no_debris_on_the_pages(book):
    text = book[1]["02_split"].select_one("article").get_text()
    for debris in ("beware", "FloatProgress", "<Figure", "0x7f", "Traceback", "NBVAL", "IPython"):
        assert debris not in text
    assert len(book[1]["02_split"].select("article .cell_output")) == 5  # none of an ended display


def test_every_table_has_a_class_that_the_dark_theme_knows(book):
    tables = book[1]["02_split"].select("article table")
    assert "styled" in tables[0].text and all(one.get("class") for one in tables)


def test_a_markdown_table_is_a_table(book):
    assert [cell.text for cell in book[1]["02_split"].select("article td")] == ["x", "1"]


def test_a_figure_is_described_by_its_title_and_the_sentence_below(book):
    images = book[1]["02_split"].select("article img")
    assert [image["alt"] for image in images] == ["Loss & AUC. The line rises.", "Losses"]


def test_code_is_folded_and_named(book):
    folded = book[1]["02_split"].select("article details")
    names = [one.summary.p.text for one in folded]
    assert names[0] == "Parameters" and set(names[1:]) == {"Code"}
    assert "1 + 1" in book[1]["02_split"].get_text() and not any(
        "open" in one.attrs for one in folded
    )


def test_the_page_says_when_it_was_executed(book):
    assert "Executed on 2 January 2026, 03:04 UTC" in book[1]["02_split"].get_text()


def test_formulas_are_mathml_and_need_no_script(book):
    assert len(book[1]["methods"].select("article math")) > 30
    assert book[1]["02_split"].select_one("article msup")
    assert not [
        tag
        for tag in book[1]["methods"].find_all("script", src=True)
        if "mathjax" in tag["src"].lower()
    ]


def test_parameters_are_told_as_they_were_given(book):
    about = book[1]["about"].select_one("article").get_text()
    assert "search_space:\n  batch_size:\n  - 32\n  - 64" in about
    assert "'a|b`c'" in about and "epochs: 5" in about


def test_no_machine_path_is_in_the_book(book):
    folder = book[0]
    for path in folder.rglob("*"):
        if path.suffix in (".html", ".js", ".svg", ".json"):
            assert str(folder.parents[1]) not in path.read_text("utf-8")
    assert {path.name for path in folder.parent.iterdir()} == {"notebooks", "report"}


def test_a_chapter_knows_what_it_ran_with(run):
    chapter = read_chapter(write(run, "02_split"))
    assert (chapter.number, chapter.label) == ("2", "Split")
    assert (chapter.title, chapter.takeaway) == ("A title & more", "The *takeaway* in a line.")
    assert chapter.parameters.items() > ({"run": "x"} | chapter.given).items()
    assert chapter.parameters["leaky"] is False and "lr" not in chapter.parameters  # not of 02


def test_the_old_book_stays_until_the_new_one_is_whole(run):
    report = run.folder / "report"
    report.mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), replaced(report) as folder:
        (folder / "index.html").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in run.folder.iterdir()] == ["report"] and not any(report.iterdir())


def test_a_run_without_notebooks_is_an_error(run):
    write(run, "02_split.partial")
    with pytest.raises(ReportError, match="no executed notebook"):
        render_book(run)


def test_results_stand_beside_reported_ones_the_best_first(run):
    row = {"split": "test", "seed": 42, "protocol": "sample", "accuracy": 0.75, "auc": 0.9}
    row |= {
        f"{one}_{end}": value
        for one in ("accuracy", "auc")
        for end, value in (("low", 0.7), ("high", 0.8))
    }
    run.add_results(
        pd.DataFrame([row | {"model": "A", "auc": 0.8}, row | {"model": "SiameseResNet"}])
    )
    first, second = results_table(run).splitlines()[2:]
    assert (
        first
        == "| SiameseResNet | 0.750 (0.700–0.800) | 0.900 (0.700–0.800) | 0.857 / 0.940 | – | – |"
    )
    assert second.startswith("| A | 0.750")


def test_an_error_in_years_makes_wrong_pairs():
    """Two ages 10 years apart, errors with a standard deviation of 10: accuracy Φ(1/√2)."""
    got = accuracy_from_error(np.repeat([20, 30], 3), error=10 * np.sqrt(2 / np.pi))
    assert got == pytest.approx(0.7602, abs=1e-4)
    rng, ages = np.random.default_rng(0), np.array([1, 4, 4, 30])
    stated = ages + rng.normal(0, 5, (50_000, 4))
    right = [stated[:, 0] < stated[:, 1], stated[:, 0] < stated[:, 3], stated[:, 1] < stated[:, 3]]
    expect = (2 * np.mean(right[0]) + np.mean(right[1]) + 2 * np.mean(right[2])) / 5
    got = accuracy_from_error(ages, error=5 * np.sqrt(2 / np.pi))
    assert got == pytest.approx(expect, abs=0.005)


def test_a_model_card_states_size_start_and_protocols(run):
    folder = run.model("siamese")
    folder.mkdir(parents=True)
    options = {"backbone": "faceres", "weights": "faceres", "image_size": 96}
    (folder / "config.json").write_text(json.dumps({"model": "SiameseResNet", "options": options}))
    record = {"data": {"faces": 1000}, "parameters": {"train": 80, "val": 15, "test": 5}}
    run.run_json.write_text(json.dumps(record))
    row = {
        "model": "SiameseResNet",
        "seed": 42,
        "split": "test",
        "loss": 0.4,
        "accuracy": 0.75,
        "auc": 0.9,
    }
    bounds = [f"{one}_{end}" for one in ("accuracy", "auc") for end in ("low", "high")]
    row |= dict.fromkeys(bounds, 0.8)
    asked = [{"protocol": "sample", "n_pairs": 5000}, {"protocol": "all", "n_pairs": 2331606}]
    run.add_results(pd.DataFrame([row | one for one in asked]))
    card = model_card(run, "siamese")
    assert "faces of 96 × 96 pixels" in card and "80/15/5" in card
    assert "It started from a network pretrained on faces" in card
    assert "5,000 (the course project's protocol)" in card and "2,331,606 (every pair)" in card
