"""The rendered site: complete, self-contained, and nothing on it that is no result."""

import base64
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hostile import hostile_names
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from utkcmp.data.archives import printable
from utkcmp.report.pages import read_page, safe_html, settle
from utkcmp.report.plan import ReportError
from utkcmp.report.runner import make_report
from utkcmp.report.site import render_site, replaced, result_tables
from utkcmp.run import Run

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="36pt"><path id="p"/></svg>'
PNG = base64.b64encode(b"\x89PNG not really").decode()
HOSTILE = "<script>alert(1)</script>"
TABLE = f"""<div><style scoped>td {{ color: red }}</style><table border="1" class="dataframe">
<thead><tr><th></th><th>file</th><th>age</th><th>loss</th></tr></thead>
<tbody><tr><th>0</th><td>{HOSTILE}.jpg</td><td>1</td><td>0.25</td></tr>
<tr><th>1</th><td onclick="alert(2)">b.jpg</td><td>61</td><td>NaN</td></tr></tbody></table></div>"""


def shown(tags=(), **data):
    kinds = {"svg": "image/svg+xml", "png": "image/png", "html": "text/html"}
    kinds |= {"md": "text/markdown", "text": "text/plain"}
    data = {kinds.get(kind, kind): value for kind, value in data.items()}
    output = new_output("display_data", data=data)
    return new_code_cell("draw()", outputs=[output], metadata={"tags": list(tags)})


def printed(text, name="stdout"):
    return new_code_cell("print()", outputs=[new_output("stream", name=name, text=text)])


def page_of(*cells):
    title = new_markdown_cell("# A title & more\n\n> The *takeaway* in a line.")
    parameters = new_code_cell('run = "x"\nepochs = 3', metadata={"tags": ["parameters"]})
    set_here = {"parameters": {"epochs": 5}, "end_time": "2026-01-02T03:04:05"}
    return new_notebook(cells=[title, parameters, *cells], metadata={"papermill": set_here})


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path))
    (tmp_path / "r/notebooks").mkdir(parents=True)
    return Run("r")


def render(run, *notebooks):
    names = ["01_data_exploration", "02_split", "08_comparison"]
    for name, notebook in zip(names, notebooks, strict=False):
        nbformat.write(notebook, run.folder / f"notebooks/{name}.ipynb")
    return render_site(run).parent


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_every_link_and_image_resolves_inside_the_folder(run):
    first = page_of(new_markdown_cell("## Same\n[02](02_split.ipynb)"), shown(svg=SVG))
    second = page_of(new_markdown_cell("## Same\n## Same"), shown(png=PNG), shown(svg=SVG))
    report = render(run, first, second)
    files = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    assert {"index.html", "01_data_exploration.html", "02_split.html", "about.html"} <= files
    linked = set()
    for page in report.glob("*.html"):
        tree = soup(page)
        ids = [tag["id"] for tag in tree.find_all(id=True)]
        assert len(ids) == len(set(ids))
        assert tree.title.text and len(tree.find_all("h1")) == 1
        for tag in tree.find_all(["a", "img", "link", "script"]):
            target = tag.get("href", tag.get("src"))
            if target == "data:," and tag.name == "link":
                continue
            path, _, anchor = unquote(target).partition("#")
            assert "://" not in target and (not path or path in files), target
            assert path or anchor in ids
            linked.add(path)
        assert all(image["alt"] for image in tree.find_all("img"))
        assert not re.search(r"url\(|@import|<style", page.read_text())
    assert files - {"index.html"} <= linked
    assert not re.search(r"url\(|@import", (report / "report.css").read_text())


def test_previous_and_next_go_through_all_pages(run):
    report = render(run, page_of(), page_of(), page_of())
    seen, page = [], "index.html"
    while page:
        seen.append(page)
        after = soup(report / page).select_one("a[rel=next]")
        page = after["href"] if after else None
    pages = ["01_data_exploration.html", "02_split.html", "08_comparison.html"]
    assert seen == ["index.html", *pages, "about.html"]
    while page := soup(report / (page or "about.html")).select_one("a[rel=prev]"):
        page = page["href"]
        seen.append(page)
    assert seen[5:] == [*pages[::-1], "index.html"]


def test_no_debris_on_the_pages(run):
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "FloatProgress(0)"}
    error = new_output("error", ename="ValueError", evalue="x", traceback=["Traceback: x"])
    report = render(
        run,
        page_of(
            printed("UserWarning: beware", "stderr"),
            printed("kept 1\r\x1b[31mkept 2\x1b[0m\n 40%|####      | 2/5 [00:01<00:02]\n"),
            shown(**widget),
            shown(text="<Figure size 640x480 with 1 Axes>"),
            shown(text="[<matplotlib.lines.Line2D at 0x7f00>]"),
            shown(**{"application/javascript": "alert(1)"}),
            new_code_cell("x", outputs=[error]),
        ),
    )
    text = soup(report / "01_data_exploration.html").main.get_text()
    assert "kept 2" in text
    for debris in ("beware", "kept 1", "\x1b", "%|", "Progress", "<Figure", "0x7f", "Traceback"):
        assert debris not in text


def test_nothing_from_the_data_acts_as_html(run):
    fetched = "<img src='http://elsewhere/x.png' onerror='alert(3)'>"
    bad = [f"[x](javascript:alert(1)) {HOSTILE}", fetched, "<iframe src='//x'></iframe>"]
    cells = [shown(md=text) for text in bad] + [new_markdown_cell(text) for text in bad]
    cells += [shown(html=TABLE), printed(HOSTILE), shown(text=HOSTILE)]
    notebook = page_of(*cells)
    notebook.cells[0].source = f"# Title {HOSTILE}\n\n> Takeaway {HOSTILE}"
    run.add_results(pd.DataFrame([result(model=HOSTILE)]))
    report = render(run, notebook)
    for name in ("index.html", "01_data_exploration.html", "about.html"):
        tree = soup(report / name)
        assert [tag["src"] for tag in tree.find_all("script")] == ["report.js"]
        assert not tree.find_all(["iframe", "object", "style"])
        for tag in tree.find_all(True):
            assert not any(key.startswith("on") for key in tag.attrs)
            assert not str(tag.get("href", "")).startswith("javascript")
    assert HOSTILE in soup(report / "index.html").main.get_text()
    assert HOSTILE + ".jpg" in soup(report / "01_data_exploration.html").main.get_text()


def harmless(page: Path) -> BeautifulSoup:
    """A page of the site, on which nothing but the site's own script acts."""
    tree = soup(page)
    assert [tag["src"] for tag in tree.find_all("script")] == ["report.js"]
    assert not tree.find_all(["iframe", "object", "style", "svg", "form", "base"])
    for tag in tree.find_all(True):
        assert not any(key.startswith("on") for key in tag.attrs)
        assert not str(tag.get("href", "")).startswith("javascript")
        assert tag.name != "img" or (page.parent / unquote(tag["src"])).is_file()
    return tree


def test_every_hostile_name_is_text_on_the_page(run):
    """In a table as pandas draws it, in a plain one, in running text, and printed."""
    names = [printable(name) for name in hostile_names()]
    table = pd.DataFrame({"file": names, "age": range(len(names))})
    cells = [shown(html=table.to_html()), shown(html=table.style.to_html())]
    cells += [shown(text=str(table)), *map(printed, names)]
    cells += [shown(md=f"The first is {name}.") for name in names]
    page = harmless(render(run, page_of(*cells)) / "01_data_exploration.html")
    first, *_ = page.find_all("table")
    assert [row.find_all("td")[0].text for row in first.select("tbody tr")] == names


def test_a_face_file_named_like_a_script_goes_through_a_whole_report(outputs, tmp_path):
    """Notebook 01 shows file names: of faces, and as examples of what is odd and rejected."""
    rng, evil = np.random.default_rng(0), "<script>alert(1)<script>"
    other = "<img src=x onerror=alert(2)>.txt"
    for age in range(1, 61):
        pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
        image = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{age}_{age % 2}_{age % 5}_{evil}.jpg")
    (tmp_path / other).write_text("no image")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UTKFACE", str(tmp_path))  # the report sets it; put back afterwards
        given = {"run": "scripts", "data": str(tmp_path), "image_size": 16}
        index = make_report(given, only=["01_data_exploration"])
    text = "".join(harmless(page).get_text() for page in index.parent.glob("*.html"))
    assert f"{evil}.jpg" in text and other in text


def test_tables_are_dressed(run):
    table = soup(render(run, page_of(shown(html=TABLE))) / "01_data_exploration.html").table
    heads = [(cell.text, cell.get("class")) for cell in table.find_all("th")]
    assert heads == [("file", None), ("age", ["num"]), ("loss", ["num"])]
    assert [cell.text for cell in table.find_all("tr")[2].find_all("td")] == ["b.jpg", "61", "–"]
    assert table.parent["class"] == ["scroll"]


def test_intervals_stand_behind_their_numbers(run):
    names = ["model", "auc", "auc_low", "auc_high", "swap_disagreement"]
    rows = [["A", 0.9, 0.85, 0.95, 5], ["coin", 0.5, None, None, None]]
    html = pd.DataFrame(rows, columns=names).to_html()
    tree = soup(render(run, page_of(shown(html=html))) / "01_data_exploration.html")
    got = [[cell.text for cell in row.find_all(["th", "td"])] for row in tree.table.find_all("tr")]
    assert got[0] == ["model", "auc", "swap_\u200bdisagreement"]
    assert got[1:] == [["A", "0.9 0.85–0.95", "5.0"], ["coin", "0.5", "–"]]


def test_figures_are_files_described_by_the_text_around_them(run):
    after = new_markdown_cell("The line rises. It says more.")
    report = render(run, page_of(new_markdown_cell("## Loss"), shown(svg=SVG), after))
    image = soup(report / "01_data_exploration.html").img
    assert image["alt"] == "Figure: Loss. The line rises."
    assert (image["width"], image["height"]) == ("96", "48")
    assert (report / image["src"]).read_text() == SVG


def test_code_is_folded_and_named(run):
    notebook = page_of(new_code_cell("# NBVAL_CHECK_OUTPUT\n1 + 1"))
    tree = soup(render(run, notebook) / "01_data_exploration.html")
    assert [tag.summary.text for tag in tree.select("details.code")] == ["parameters", "code"]
    assert "NBVAL" not in tree.main.get_text() and "1 + 1" in tree.main.get_text()


def test_the_page_says_what_it_ran_with(run):
    nbformat.write(page_of(), run.folder / "notebooks/02_split.ipynb")
    page = read_page(run.folder / "notebooks/02_split.ipynb")
    assert (page.number, page.label, page.file) == ("2", "Split", "02_split.html")
    assert (page.title, page.takeaway) == ("A title & more", "The takeaway in a line.")
    assert page.parameters == {"run": "x", "epochs": 5} and page.given == {"epochs": 5}


def result(**values):
    row = {"model": "A", "split": "test", "protocol": "sample", "n_pairs": 5000, "loss": 0.4}
    row |= {"accuracy": 0.75, "accuracy_low": 0.7, "accuracy_high": 0.8}
    return row | {"auc": 0.9, "auc_low": 0.8, "auc_high": float("nan")} | values


def test_parameters_of_papermills_own_types_are_told(run):
    notebook = page_of()
    given = {"search_space": {"batch_size": [32, 64]}, "hidden_layers": [8]}
    notebook.metadata.papermill.parameters = given  # nbformat makes its own dicts of these
    about = soup(render(run, notebook) / "about.html").get_text()
    assert "search_space:\n  batch_size:\n  - 32\n  - 64" in about


def test_the_overview_shows_the_test_rows_best_last(run):
    rows = [result(model="B", auc=0.8), result(), result(split="val", model="C", auc=1.0)]
    table, every = result_tables(pd.DataFrame([*rows, result(protocol="all")]))
    assert [row["model"] for row in table["rows"]] == ["coin flip", "B", "A"]
    assert [cell["value"] for cell in table["rows"][2]["cells"]] == [
        "75.0 %",
        "0.900",
        "5,000",
        "0.400",
        "–",
    ]
    assert table["rows"][2]["cells"][0]["interval"] == "70.0–80.0"
    assert (table["best"]["model"], table["best"]["models"]) == ("A", 2)
    assert every["protocol"] == "all" and result_tables(pd.DataFrame()) == []


def test_the_answer_is_the_model_that_validation_chose(run):
    """Not the one that happens to lead on test: to choose there would flatter its figure."""
    rows = [result(), result(model="B", auc=0.8)]
    chosen = [result(split="val"), result(split="val", model="B", auc=0.95)]
    (table,) = result_tables(pd.DataFrame([*rows, *chosen]))
    assert [row.get("best", False) for row in table["rows"]] == [False, True, False]
    run.add_results(pd.DataFrame([*rows, *chosen]))
    said = " ".join(soup(render(run, page_of()) / "index.html").select_one(".answer").text.split())
    assert said.startswith("Of 2 models the validation pairs chose B, right on 75.0 % of 5,000")


def test_the_headline_cells_are_on_the_overview(run):
    notebook = page_of(shown(tags=["headline"], svg=SVG), shown(tags=["headline"], md="It **is**."))
    tree = soup(render(run, notebook) / "index.html")
    assert tree.find("img") and "It is." in tree.main.get_text()


def test_the_old_site_stays_until_the_new_one_is_whole(run):
    report = render(run, page_of())
    (run.folder / ".report.left").mkdir()
    with pytest.raises(ZeroDivisionError), replaced(report) as folder:
        (folder / "index.html").write_text("half")
        raise ZeroDivisionError
    assert "half" not in (report / "index.html").read_text()
    assert [path.name for path in run.folder.glob(".report*")] == []


def test_a_run_without_notebooks_is_an_error(run):
    (run.folder / "notebooks/02_split.partial.ipynb").write_text("{")
    with pytest.raises(ReportError, match="no executed notebook"):
        render_site(run)


def test_harmless_html_stays():
    expect = '<p class="a">x <b>y</b> <a href="https://x.org">z</a></p>'
    assert safe_html(expect) == expect
    assert safe_html('<img src="data:image/png;base64,AA==">').startswith("<img src=")
    assert safe_html("a < b & c") == "a &lt; b &amp; c"


def test_printed_text_is_settled():
    assert settle("a\r\nb\rc\n") == "a\nc\n"
