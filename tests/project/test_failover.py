"""Failover under producers, workers and schedulers, and what can be read from a standby (F24 of docs/faults.md)."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import psycopg
import pytest

from pgqueue import App, ReadOnlyDatabase, dashboard
from pgqueue.dashboard import Access
from tests.edges.dashboard.scene import Shop, build, shop_of
from tests.stress import failovers
from tests.stress.failovers import Scene, scene, strike

PAGES = (
    "",
    "queues",
    "jobs",
    "failures",
    "workflows",
    "tasks",
    "schedules",
    "limits",
    "workers",
    "database",
    "operations",
)
COMMANDS = "status", "jobs list", "dead list", "schedules list", "limits list"

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]


def test_nothing_is_lost_and_nothing_doubled_when_the_standby_is_synchronous() -> None:
    with scene("sync") as place:
        assert strike(place, cut=False).lost == 0


def test_an_asynchronous_standby_loses_what_it_had_not_received_and_no_more() -> None:
    with scene("async") as place:
        seen = strike(place, cut=True)
    assert 0 < seen.lost < seen.acknowledged


def test_nothing_is_lost_through_a_pooler_that_is_led_to_the_standby() -> None:
    if failovers.PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed")
    with scene("sync", through_bouncer=True) as place:
        assert strike(place, cut=False).lost == 0


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Scene, Shop]]:
    """A primary with the shop's history, which its standby has received."""
    with scene("async") as place:
        shop = shop_of(place.primary.dsn())
        with psycopg.connect(place.primary.dsn(), autocommit=True, options="-c search_path=") as conn:
            build(shop, conn)
        failovers.until(
            place.primary.dsn(), "select bool_and(replay_lsn >= pg_current_wal_lsn()) from pg_stat_replication"
        )
        yield place, shop
        shop.app.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_of_a_standby_what_it_says_of_the_primary(pair: tuple[Scene, Shop], command: str) -> None:
    place, _ = pair
    said = []
    for server in (place.primary, place.standby):
        asked = [sys.executable, "-m", "pgqueue", *command.split(), "--json", "--dsn", server.dsn()]
        said.append(json.loads(subprocess.run(asked, check=True, capture_output=True).stdout))
    assert type(said[0]) is type(said[1])
    assert len(said[0]) == len(said[1]) > 0


def test_the_dashboard_shows_every_page_of_a_standby_and_refuses_to_change_anything(pair: tuple[Scene, Shop]) -> None:
    there = shop_of(pair[0].standby.dsn())
    wsgi = dashboard.wsgi(there.app, access=lambda _: Access.operate("alice"))
    browser = httpx.Client(transport=httpx.WSGITransport(wsgi), base_url="http://shop.example")
    shown = {page: browser.get(f"/{page}") for page in PAGES}
    there.app.close()
    assert {page: answer.status_code for page, answer in shown.items()} == dict.fromkeys(PAGES, 200)
    assert "read only" in shown["queues"].text
    assert "media" in shown["queues"].text


@pytest.mark.parametrize(
    "write",
    [lambda app: app.enqueue("t"), lambda app: app.wait(1, 20), lambda app: app.publish("order.paid", {})],
    ids=["enqueue", "wait", "publish"],
)
def test_a_verb_that_writes_on_a_standby_says_how_to_reach_the_primary(
    pair: tuple[Scene, Shop], write: Callable[[App], object]
) -> None:
    there = App(pair[0].standby.dsn())
    with pytest.raises(ReadOnlyDatabase, match="target_session_attrs=read-write"):
        write(there)
    there.close()
