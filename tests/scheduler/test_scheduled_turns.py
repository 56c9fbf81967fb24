"""Schedules of tasks that rules concern: a tick's job waits for its turn, as a caller's does."""

import asyncio
from datetime import timedelta

import pytest

from pgqueue import App, InvalidOption, Limit
from pgqueue.codecs import AESGCM
from pgqueue.db import Database
from pgqueue.db.link import Link
from pgqueue.jobs.flow import Flow
from pgqueue.scheduler.declarer import declare as declare_all
from tests.conftest import scalar
from tests.harness import Conn
from tests.scheduler.ticking import HOURLY, declare, fire, last_hour

CODECS = {"clear": None, "sealed": AESGCM({"1": b"k" * 32})}


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


async def declared_by(app: App, dsn: str) -> None:
    link = Link(Database(dsn), "pgqueue scheduler")
    try:
        await declare_all(app, link)
    finally:
        await link.close()


def flow_of(conn: Conn) -> Flow:
    row = conn.execute("select headers -> '$flow', lane, state, waits_for, priority from pgqueue.job_live").fetchone()
    assert row is not None
    flow = Flow.of_header(row[0])
    assert row[1:4] == (flow.lane, "blocked", "turn")
    return flow


@pytest.mark.parametrize("codec", CODECS)
def test_a_tick_fires_a_job_with_the_flow_of_its_arguments(codec: str, dsn: str, conn: Conn) -> None:
    app = App(dsn, codec=CODECS[codec], limits={"nightly": Limit(2)})

    @app.task(name="t", limit=Limit(1, by="tenant"), ordered="n", priority=3, queue="nightly")
    def t(n: int, tenant: str = "acme") -> None: ...

    app.schedules.create("s", t, 3600, args={"n": 7})
    conn.execute("update pgqueue.schedule set next_tick = now() - interval '1 second', priority = 9")
    assert fire(app, dsn) == 1
    assert flow_of(conn) == Flow(("queue:nightly", "t#order/7", "t/acme"), "t#order/7")
    assert scalar(conn, "select priority from pgqueue.job_live") == 3  # in order there are no others
    conn.execute("delete from pgqueue.job_live")
    job = app.schedules.run("s")
    assert job.waits_for == "turn"
    assert flow_of(conn) == Flow(("queue:nightly", "t#order/7", "t/acme"), "t#order/7")
    app.close()


def test_a_declared_schedule_of_a_metered_task_is_not_changed_by_each_scheduler(dsn: str, conn: Conn) -> None:
    app = App(dsn)

    @app.schedule(3600)
    @app.task(name="t", limit=Limit(1))
    def t() -> None: ...

    asyncio.run(declared_by(app, dsn))
    (first,) = conn.execute("select xmin::text from pgqueue.schedule").fetchall()
    asyncio.run(declared_by(app, dsn))
    assert conn.execute("select xmin::text from pgqueue.schedule").fetchall() == [first]
    app.close()


def test_arguments_that_no_longer_fit_take_the_bucket_without_a_key(dsn: str, conn: Conn) -> None:
    app = App(dsn, limits={"q": Limit(1)})

    @app.task(name="t", limit=Limit(1, by="tenant"), fair="tenant")
    def t(tenant: str) -> None: ...

    declare(conn, "s", HOURLY, last_hour(conn) - timedelta(hours=1), args='{"former": 1}', queue="q")
    assert fire(app, dsn) == 1
    assert flow_of(conn) == Flow(("queue:q", "t"), None, "t#fair")
    app.close()


def test_a_schedule_of_a_task_elsewhere_waits_for_its_queue(dsn: str, conn: Conn) -> None:
    app = App(dsn, limits={"q": Limit(1)})
    declare(conn, "s", HOURLY, last_hour(conn) - timedelta(hours=1), task="elsewhere", queue="q")
    assert fire(app, dsn) == 1
    assert flow_of(conn) == Flow(("queue:q",))
    app.close()


def test_a_schedule_of_jobs_in_order_takes_no_priority(dsn: str, conn: Conn) -> None:
    app = App(dsn)

    @app.task(name="t", ordered="n")
    def t(n: int) -> None: ...

    with pytest.raises(InvalidOption, match="jobs of task t run in order"):
        app.schedules.create("s", t, 3600, args={"n": 7}, priority=1)
    app.schedules.create("s", t, 3600, args={"n": 7})
    with pytest.raises(InvalidOption, match="jobs of task t run in order"):
        app.schedules.edit("s", priority=1)
    app.close()
