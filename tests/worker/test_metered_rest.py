"""A worker rests while metered jobs wait for what none of its claims can bring: it asks a few times a second."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import App, db
from pgqueue.db import link
from pgqueue.queries import Query
from tests.conftest import eventually, scalar
from tests.harness import Conn, working
from tests.statements.turns import in_order, keyed, metered, rule

SECONDS = 1.5
MOST = 15  # claims and looks, in that time


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often workers looked at lanes (`hop`), and claimed metered jobs (`instant`)."""
    counts: Counter[str] = Counter()
    run_async = db.run_async

    async def counting(conn: Any, query: Query[Any]) -> Any:
        counts["looks"] += b"with recursive hop(number" in query.sql
        counts["claims"] += b"instant as materialized" in query.sql
        counts["all"] += 1
        return await run_async(conn, query)

    for module in (db, link):
        monkeypatch.setattr(module, "run_async", counting)
    return counts


async def rests(app: App, turns: Counter[str], aside: Callable[[], object] = bool, **settings: Any) -> None:
    async with working(app, **settings):
        await eventually(lambda: turns["looks"] or aside(), "a look")
        await asyncio.sleep(0.3)
        turns.clear()
        await asyncio.sleep(SECONDS)
    assert turns["looks"] + turns["claims"] <= MOST


@pytest.fixture(autouse=True)
def task(app: App) -> None:
    @app.task(name="t")
    async def t() -> None: ...


def test_beside_a_paused_queue(app: App, conn: Conn, turns: Counter[str]) -> None:
    rule(conn, "r", max_running=1)
    metered(conn, keyed("r"), 2)
    app.pause(queue="default")
    asyncio.run(rests(app, turns))


@pytest.mark.parametrize("flow", [keyed("r"), in_order("r/1")])
def test_beside_a_paused_task(app: App, conn: Conn, turns: Counter[str], flow: Any) -> None:
    rule(conn, "r", max_running=1)
    metered(conn, flow, 2)
    app.pause(task="t")
    aside = "select count(*) = 2 from pgqueue.job_live where waits_for = 'pause'"  # before the first look, perhaps
    asyncio.run(rests(app, turns, lambda: scalar(conn, aside)))


def test_while_a_queue_has_all_its_own_slots(app: App, conn: Conn, turns: Counter[str]) -> None:
    go_on = asyncio.Event()

    @app.task(name="slow")
    async def slow() -> None:
        await go_on.wait()

    rule(conn, "r", max_running=5)
    metered(conn, keyed("r"), 3)
    conn.execute("update pgqueue.job_live set task = 'slow'")

    async def scenario() -> None:
        async with working(app, queues=["default", "other"], limits={"default": 1}, concurrency=4):
            await eventually(lambda: scalar(conn, "select count(*) = 1 from pgqueue.job_live where state = 'running'"))
            await asyncio.sleep(0.3)
            turns.clear()
            await asyncio.sleep(SECONDS)
            asked = turns["all"]
            go_on.set()
            await eventually(lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live"))
        assert asked <= 4 * MOST

    asyncio.run(scenario())
