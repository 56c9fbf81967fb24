"""A worker rests while metered jobs wait for what none of its claims can bring: it asks a few times a second."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import App, Context, db
from pgqueue.db import link
from pgqueue.queries import Query
from pgqueue.worker.claiming import producer
from tests.conftest import eventually, scalar
from tests.harness import Conn, working
from tests.statements.turns import in_order, keyed, metered, rule

SECONDS = 1.5
MOST = 15  # claims and looks, in that time


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often workers looked at lanes (`hop`), and claimed metered jobs (`instant`) and plain ones (`lane`)."""
    counts: Counter[str] = Counter()
    run_async = db.run_async

    async def counting(conn: Any, query: Query[Any]) -> Any:
        counts["looks"] += b"with recursive hop(number" in query.sql
        counts["claims"] += b"instant as materialized" in query.sql
        counts["plain"] += b"%(lane_run_ats)s" in query.sql or b"with recursive hop(priority)" in query.sql
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


def test_plain_jobs_are_not_asked_for_beside_each_claim_of_metered_ones(
    app: App, conn: Conn, turns: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "PLAIN_REST_SECONDS", 3600.0)
    began = list[int]()

    @app.task(name="short")
    async def short(ctx: Context) -> None:
        began.append(ctx.job_id)
        await asyncio.sleep(0.001)

    rule(conn, "r", max_running=10_000)
    metered(conn, keyed("r"), 3000)
    conn.execute("update pgqueue.job_live set task = 'short'")

    async def stages() -> None:
        async with working(app, concurrency=4):
            await eventually(lambda: len(began) >= 500, "metered jobs to have filled the worker")
            counted = Counter(turns)
            await eventually(lambda: len(began) >= 1500, "more of them")
            assert turns["claims"] - counted["claims"] > 5
            assert turns["plain"] == counted["plain"]
            short.enqueue()  # its notification, or room that metered jobs leave, ends the rest
            await eventually(lambda: len(began) == 3001, "the end of all jobs")

    asyncio.run(stages())
