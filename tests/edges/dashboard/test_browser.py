"""The dashboard in a real Chromium: nothing on the console, live without a reload, and usable without JavaScript."""

from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue.dashboard import VERBS, Access
from tests.conftest import scalar
from tests.edges.dashboard.paths import pages_of
from tests.edges.dashboard.scene import Shop
from tests.edges.dashboard.served import CHROMIUM, browser, served
from tests.harness import Conn

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]

UNHEARD = """
insert into pgqueue.dead_letter (id, task, queue, priority, args, run_at, created_at, attempt, max_attempts, lease,
    reason, error, fingerprint, failed_at)
values (nextval('pgqueue.job_id'), 'live.news', 'q', 0, '{}', now(), now(), 1, 1, 1, 'exhausted',
    '{"type": "Unheard", "message": "m"}', 'unheard', now() - interval '10 minutes')"""


@pytest.fixture(scope="module")
def site(shop: Shop) -> Iterator[str]:
    with served(shop) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
    with browser() as started:
        yield started


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """A tab whose console must stay empty."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page, said = context.new_page(), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
    yield page
    context.close()
    assert said == []


def test_every_page_keeps_the_console_empty_and_fits_a_telephone(site: str, shop: Shop, tab: Any) -> None:
    tab.set_viewport_size({"width": 360, "height": 800})
    elsewhere: list[str] = []
    tab.on("request", lambda request: None if request.url.startswith(site) else elsewhere.append(request.url))
    for path in pages_of(shop):
        answer = tab.goto(site + path)
        assert answer.status == 200, path
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360, path
    assert elsewhere == []


def test_a_failure_shows_without_a_reload_and_what_is_selected_stays_selected(
    site: str, shop: Shop, tab: Any, conn: Conn
) -> None:
    tab.goto(f"{site}failures")
    tab.evaluate("window.loaded_once = true")
    tab.evaluate("getSelection().selectAllChildren(document.querySelector('#groups tbody a.name'))")
    chosen = tab.evaluate("String(getSelection())")
    assert chosen
    conn.execute(UNHEARD)
    tab.wait_for_selector("#groups >> text=Unheard", timeout=10_000)
    assert tab.evaluate("window.loaded_once") is True
    assert tab.evaluate("String(getSelection())") == chosen


def test_a_page_that_answers_a_form_does_not_say_that_it_is_live(shop: Shop, tab: Any) -> None:
    """It cannot be fetched again by its address, so it stays as it is, and asks for nothing."""
    with served(shop, who=Access("root", VERBS)) as site:
        tab.goto(f"{site}jobs/{shop.ids['declined']}")
        tab.wait_for_selector("#live >> text=live")
        tab.click("text=Show what is hidden")
        tab.wait_for_selector("text=tok_4242")
        tab.wait_for_load_state("networkidle")
        assert tab.is_hidden("#live")
        asked = tab.evaluate("performance.getEntriesByType('resource').map((each) => each.name)")
        assert [url for url in asked if "/-/static/" not in url] == []


def test_a_dead_letter_is_edited_and_redriven_by_clicks(site: str, shop: Shop, tab: Any, conn: Conn) -> None:
    job = shop.ids["bug"]
    tab.goto(f"{site}failures")
    tab.click("#groups >> text=KeyError")
    tab.click("text=Edit the newest")
    tab.fill("input[name='arg:template']", "plain")
    tab.click("text=Save and redrive")
    tab.wait_for_selector("text=Brought back")
    assert scalar(conn, "select count(*) from pgqueue.operation where kind = 'redrive' and actor = 'alice'") >= 1
    assert shop.app.get(job).args["template"] == "plain"


def test_without_javascript_every_page_reads_and_a_verb_works(site: str, shop: Shop, chromium: Any, conn: Conn) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}queues/critical")
    page.click("summary >> text=Pause")
    page.fill("input[name='why']", "no script")
    page.click("button >> text=Pause queue critical")
    page.wait_for_selector("text=Paused by alice")
    assert scalar(conn, "select paused_reason from pgqueue.queue where name = 'critical'") == "no script"
    context.close()


def test_seven_tabs_share_one_stream(site: str, chromium: Any) -> None:
    context = chromium.new_context()
    streams: list[str] = []
    context.on("request", lambda request: streams.append(request.url) if request.url.endswith("-/events") else None)
    for _ in range(7):
        page = context.new_page()
        page.goto(f"{site}queues", timeout=5000)
        page.wait_for_selector("#live:not([hidden])", timeout=5000)
    assert len(streams) <= 1 or len(set(streams)) == 1
    context.close()
