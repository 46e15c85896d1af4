"""The book as a browser shows it: opened from disk, without a network, read and operated."""

import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(
    not CHROMIUM and "NEED_CHROMIUM" not in os.environ, reason="no Chromium on this machine"
)
WIDTHS = {"wide": 1280, "phone": 390}
SOME = ("index", "methods", "08_comparison")  # pages that axe checks each time
OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true })"
SCROLLS = """[...document.querySelectorAll('article table')].filter(one => {
    let box = one.parentElement
    while (box && getComputedStyle(box).overflowX === 'visible') box = box.parentElement
    return one.scrollWidth > box.clientWidth && box.tagName === 'HTML'
}).length"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--host-resolver-rules=MAP * ~NOTFOUND", "--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def book(whole_report):
    return whole_report.folder / "report"


def pages(book: Path) -> list[Path]:
    """All pages but that of the search, in the order of their numbers."""
    found = sorted(set(book.glob("*.html")) - {book / "search.html"})
    assert len(found) >= 12  # eight notebooks or more, and those around them
    return found


@pytest.fixture
def tab(browser, request):
    """A page of a window as wide as asked for, with no network."""
    width, scheme = getattr(request, "param", ("wide", "light"))
    viewport = {"width": WIDTHS[width], "height": 844}
    context = browser.new_context(offline=True, viewport=viewport, color_scheme=scheme)
    yield context.new_page()
    context.close()


def test_pages_open_from_disk_and_ask_for_nothing_else(book, tab):
    said, asked, ids, links = [], [], {}, set()
    tab.on("console", lambda message: said.append((message.type, message.text)))
    tab.on("pageerror", lambda error: said.append(("error", str(error))))
    tab.on("requestfailed", lambda one: said.append(("failed", one.url)))
    tab.on("request", lambda one: asked.append(one.url))
    for page in pages(book):
        tab.goto(page.as_uri(), wait_until="load")
        images = tab.eval_on_selector_all(
            "article img", "all => all.map(i => [i.src, i.alt, i.naturalWidth])"
        )
        assert [one for one in images if not one[2] or len(one[1]) < 10] == []
        ids[page.as_uri()] = set(tab.eval_on_selector_all("[id]", "all => all.map(e => e.id)"))
        links |= set(tab.eval_on_selector_all("a[href]", "all => all.map(e => e.href)"))
        assert tab.locator("article h1").count() == 1
    assert [one for one in said if one[0] in ("error", "warning", "failed")] == []
    root = book.as_uri() + "/"
    assert [url for url in asked if not url.startswith((root, "data:"))] == []
    for link in links:
        address, anchor = urldefrag(link)
        if address.startswith("file:"):
            assert Path(unquote(address.removeprefix("file://"))).is_file(), link
            assert not anchor or anchor in ids.get(address, {anchor}), link


def test_the_search_finds_what_a_notebook_says(book, tab):
    tab.goto((book / "search.html").as_uri() + "?q=bootstrap")
    tab.wait_for_selector("#search-results li a")
    found = tab.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
    assert any("methods.html" in link for link in found)


@pytest.mark.parametrize(
    ("tab", "checked"),
    [
        (("wide", "light"), SOME),
        (("phone", "dark"), ("08_comparison",)),
        pytest.param(("wide", "light"), None, marks=pytest.mark.slow, id="every page"),
    ],
    indirect=["tab"],
)
def test_axe_finds_nothing_serious(book, tab, checked):
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for page in pages(book):
        tab.goto(page.as_uri())
        tab.evaluate(OPEN_ALL)
        if checked is None or page.stem in checked:
            result = Axe().run(tab).response
            assert len(result["passes"]) > 10  # it has looked
            for one in result["violations"]:
                if one["impact"] in ("serious", "critical"):
                    found.append((page.name, one["id"], one["nodes"][0]["html"][:200]))
        assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]
        assert tab.evaluate(SCROLLS) == 0, f"a table is cut off on {page.name}"
    assert found == []


def test_light_and_dark_follow_the_reader(book, browser):
    grounds = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto((book / "01_data_exploration.html").as_uri())
        style = "getComputedStyle(document.querySelector('{}')).backgroundColor"
        grounds[scheme] = [page.evaluate(style.format(name)) for name in ("body", "article img")]
        page.close()
    white, (dark, mat) = "rgb(255, 255, 255)", grounds["dark"]
    assert grounds["light"][0] == mat == white  # figures lie on white paper in the dark too
    assert max(map(int, dark.removeprefix("rgb(").rstrip(")").split(","))) < 60


def test_print_leaves_out_navigation_and_folded_code_and_cuts_no_table(book, tab):
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 700, "height": 1000})  # A4 without its margins
    for page in pages(book):
        tab.goto(page.as_uri())
        for hidden in ("#pst-primary-sidebar", "details.hide", ".prev-next-area"):
            assert not tab.locator(hidden).first.is_visible(), hidden
        wide = "all => all.map(e => e.scrollWidth - e.parentElement.clientWidth)"
        over = tab.eval_on_selector_all("article table", wide)
        assert all(one <= 1 for one in over), (page.name, over)
    assert tab.pdf(format="A4").startswith(b"%PDF")
