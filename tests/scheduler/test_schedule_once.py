"""`pgqueue schedule --once`: what is due fires, and the process ends."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pgqueue import App, db
from pgqueue.scheduler import Scheduler, SchedulerSettings
from pgqueue.schedules.schedule import Schedule
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, Process, new_job
from tests.scheduler.ticking import HOURLY, declare, last_hour, next_tick, outcomes


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def fire_once(app: App) -> bool:
    async def run() -> bool:
        async with asyncio.timeout(30):
            return await Scheduler(app, SchedulerSettings(once=True)).run()

    return asyncio.run(run())


def test_what_is_due_fires_once_and_what_is_not_stays(app: App, conn: Conn) -> None:
    tick = last_hour(conn)
    declare(conn, "due", HOURLY, tick)
    declare(conn, "later", HOURLY, tick + timedelta(hours=2))
    assert fire_once(app)
    assert (outcomes(conn, "due"), outcomes(conn, "later")) == (["fired"], [])
    assert next_tick(conn, "due") == tick + timedelta(hours=1)
    assert fire_once(app)
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 1
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


def test_more_schedules_than_a_batch_fire(app: App, conn: Conn) -> None:
    many = [(Schedule(f"s{n}", HOURLY, new_job("t")), last_hour(conn)) for n in range(1101)]
    db.run(conn, QUERIES.schedules.declare(many))
    assert fire_once(app)
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 1101


def test_schedules_of_the_code_are_declared_and_begin_with_their_next_tick(app: App, conn: Conn) -> None:
    app.schedule(HOURLY, name="new")(app.task(name="t")(lambda: None))
    assert fire_once(app)
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    conn.execute("update pgqueue.schedule set next_tick = %s where name = 'new'", (last_hour(conn),))
    assert fire_once(app)
    assert scalar(conn, "select task from pgqueue.job_live") == "t"


def test_a_schedule_that_another_transaction_holds_is_left_to_it(app: App, conn: Conn, connect: Any) -> None:
    declare(conn, "held", HOURLY, last_hour(conn))
    declare(conn, "free", HOURLY, last_hour(conn))
    connect().execute("select from pgqueue.schedule where name = 'held' for update")
    assert fire_once(app)
    assert (outcomes(conn, "held"), outcomes(conn, "free")) == ([], ["fired"])


def test_the_command_fires_and_ends_with_status_0(tmp_path: Path, dsn: str, conn: Conn) -> None:
    (tmp_path / "shop.py").write_text("import pgqueue\napp = pgqueue.App()\n")
    declare(conn, "s", HOURLY, last_hour(conn))
    with Process(tmp_path, dsn, "schedule", "-A", "shop:app", "--once") as process:
        assert process.wait() == 0
    assert outcomes(conn) == ["fired"]
