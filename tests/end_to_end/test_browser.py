"""The site as a browser shows it: opened from disk, without a network, read and operated."""

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
OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true })"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        nowhere = "--host-resolver-rules=MAP * ~NOTFOUND"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[nowhere])
        yield browser
        browser.close()


@pytest.fixture
def site(whole_report):
    return whole_report.folder / "report"


def pages(site: Path) -> list[Path]:
    """All pages, in the order of their numbers."""
    found = sorted(site.glob("*.html"))
    assert len(found) >= 10  # the overview, eight notebooks or more, and about
    return found


@pytest.fixture
def tab(browser, request):
    """A page of a window as wide as asked for, with no network."""
    width, scheme = getattr(request, "param", ("wide", "light"))
    viewport = {"width": WIDTHS[width], "height": 844}
    context = browser.new_context(offline=True, viewport=viewport, color_scheme=scheme)
    yield context.new_page()
    context.close()


def test_pages_open_from_disk_and_ask_for_nothing_else(site, tab):
    said, asked = [], []
    tab.on("console", lambda message: said.append((message.type, message.text)))
    tab.on("pageerror", lambda error: said.append(("error", str(error))))
    tab.on("requestfailed", lambda one: said.append(("failed", one.url)))
    tab.on("request", lambda one: asked.append(one.url))
    for page in pages(site):
        tab.goto(page.as_uri(), wait_until="load")
    assert [one for one in said if one[0] in ("error", "warning", "failed")] == []
    root = site.as_uri() + "/"
    assert [url for url in asked if not url.startswith((root, "data:"))] == []
    assert {root + name for name in ("report.css", "report.js")} <= set(asked)


def test_every_link_and_image_is_there(site, tab):
    ids, links = {}, []
    for page in pages(site):
        tab.goto(page.as_uri(), wait_until="load")
        images = tab.eval_on_selector_all("img", "all => all.map(i => [i.src, i.naturalWidth])")
        assert [src for src, width in images if not width] == []
        ids[page.as_uri()] = set(tab.eval_on_selector_all("[id]", "all => all.map(e => e.id)"))
        links += tab.eval_on_selector_all("[href]", "all => all.map(e => e.href)")
    for link in set(links) - {"data:,"}:
        address, anchor = urldefrag(link)
        assert address.startswith(site.as_uri() + "/"), link
        assert Path(unquote(address.removeprefix("file://"))).is_file(), link
        assert not anchor or anchor in ids[address], link


def test_every_page_has_a_title_and_leads_on(site, tab):
    titles = {}
    for page in pages(site):
        tab.goto(page.as_uri())
        titles[page.name] = tab.title()
        assert tab.locator("h1").count() == 1 and tab.locator("h1").inner_text().strip()
        turns = {"prev": page.name != "index.html", "next": page.name != "about.html"}
        for turn, expected in turns.items():
            assert (tab.locator(f"a[rel={turn}]").count() == 1) == expected, (page.name, turn)
    assert all(titles.values()) and len(set(titles.values())) == len(titles)


@pytest.mark.parametrize("tab", [("wide", "light"), ("phone", "dark")], indirect=True, ids="-".join)
def test_axe_finds_nothing_serious(site, tab):
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for page in pages(site):
        tab.goto(page.as_uri())
        tab.evaluate(OPEN_ALL)
        result = Axe().run(tab).response
        assert len(result["passes"]) > 10  # it has looked
        for one in result["violations"]:
            if one["impact"] in ("serious", "critical"):
                found.append((page.name, one["id"], one["nodes"][0]["html"][:200]))
    assert found == []


@pytest.mark.parametrize(
    "tab", [("phone", "light"), ("wide", "light")], indirect=True, ids="-".join
)
def test_no_page_is_wider_than_its_window(site, tab):
    for page in pages(site):
        tab.goto(page.as_uri())
        got = tab.evaluate("document.documentElement.scrollWidth")
        assert got <= tab.viewport_size["width"], page.name


def test_a_table_sorts_by_keyboard(site, tab):
    tab.goto((site / "index.html").as_uri())
    table = tab.locator("table.results").first
    head, column = table.locator("th:nth-child(4)"), table.locator("tbody tr td:nth-child(4)")
    assert head.inner_text() == "AUC"
    head.get_by_role("button").focus()
    orders = {}
    for _ in range(2):
        tab.keyboard.press("Enter")
        shown = [float(text.split()[0]) for text in column.all_inner_texts()]
        orders[head.get_attribute("aria-sort")] = shown
    assert len(shown) >= 4 and len(set(shown)) > 1
    assert orders == {"ascending": sorted(shown), "descending": sorted(shown, reverse=True)}


def test_light_and_dark_follow_the_reader(site, browser):
    grounds = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto((site / "01_data_exploration.html").as_uri())
        style = "getComputedStyle(document.querySelector('{}')).backgroundColor"
        grounds[scheme] = [page.evaluate(style.format(name)) for name in ("body", "a.figure")]
        page.close()
    white, (dark, mat) = "rgb(255, 255, 255)", grounds["dark"]
    assert grounds["light"][0] == mat == white  # figures lie on white paper in the dark too
    assert max(map(int, dark.removeprefix("rgb(").rstrip(")").split(","))) < 60


def test_print_leaves_out_navigation_and_folded_code(site, tab):
    tab.goto((site / "08_comparison.html").as_uri())
    tab.emulate_media(media="print")
    for hidden in ("nav.side", "header.top", "nav.turn", "details.code"):
        assert not tab.locator(hidden).first.is_visible(), hidden
    assert tab.locator("h1").is_visible() and tab.locator("a.figure img").first.is_visible()
    assert tab.pdf(format="A4").startswith(b"%PDF")


def test_every_figure_has_a_text_of_its_own(site, tab):
    texts = []
    for page in pages(site):
        tab.goto(page.as_uri())
        texts += tab.eval_on_selector_all("main img", "all => all.map(i => i.alt)")
    assert len(texts) > 20 and all(len(text) > 20 for text in texts)
