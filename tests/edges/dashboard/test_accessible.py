"""The dashboard for people who see little, or use no mouse: axe finds nothing serious, and the keyboard does all."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest

from tests.conftest import scalar
from tests.edges.dashboard.paths import pages_of
from tests.edges.dashboard.scene import Shop
from tests.edges.dashboard.served import CHROMIUM, browser, served
from tests.harness import Conn

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def site(shop: Shop) -> Iterator[str]:
    with served(shop) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
    with browser() as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(
    site: str, shop: Shop, chromium: Any, scheme: Literal["light", "dark"]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    context = chromium.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 800})
    page, found = context.new_page(), dict[str, list[str]]()
    for path in pages_of(shop):
        page.goto(site + path)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        for violation in axe.run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                places = [f"{path or 'now'}: {node['html'][:120]}" for node in violation["nodes"]]
                found.setdefault(f"{violation['id']}: {violation['help']}", []).extend(places[:2])
    context.close()
    assert found == {}


def test_a_page_at_twice_the_size_needs_no_scrolling_aside(site: str, shop: Shop, chromium: Any) -> None:
    context = chromium.new_context(viewport={"width": 640, "height": 400}, device_scale_factor=2)
    page = context.new_page()
    for path in pages_of(shop):
        page.goto(site + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 640, path
    context.close()


def focused(page: Any) -> str:
    """Return the text of what has the focus, or its name."""
    return str(page.evaluate("((e) => (e.innerText || e.name || e.localName).trim())(document.activeElement)"))


def tab_to(page: Any, *texts: str) -> None:
    """Press Tab until one of these has the focus, which must be seen."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if focused(page).startswith(texts):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"none of {texts} gets the focus")


def test_the_keyboard_alone_finds_a_job_and_brings_it_back(site: str, shop: Shop, chromium: Any, conn: Conn) -> None:
    job = shop.ids["bug"]
    page = chromium.new_page()
    page.goto(site)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the page"
    page.keyboard.press("/")
    page.keyboard.type(str(job))
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/jobs/{job}")
    tab_to(page, "Redrive")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Brought back")
    assert scalar(conn, "select count(*) from pgqueue.operation where kind = 'redrive' and actor = 'alice'") == 1
    page.close()


def test_the_keyboard_alone_brings_a_group_of_failures_back(site: str, chromium: Any, conn: Conn) -> None:
    page = chromium.new_page()
    page.goto(site)
    for way in ("Failures", "CardDeclined", "Redrive…", "limit"):
        tab_to(page, way)
        if way != "limit":
            with page.expect_navigation():
                page.keyboard.press("Enter")
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The operation has begun")
    newest = "select options->>'limit' from pgqueue.operation where kind = 'redrive' order by id desc limit 1"
    assert scalar(conn, newest) == "1"
    page.close()
