"""A worker sets jobs of paused tasks aside, and brings them back: at once, by the clock, and where another one died."""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

import pytest

from pgqueue import App, Task, db
from pgqueue.queries.pauses import PauseSettings
from pgqueue.worker.duties import pauser
from tests.conftest import eventually, scalar, work
from tests.harness import QUERIES, Conn, Process, insert_job, working
from tests.statements.turns import in_order, keyed, metered, rule

ENDED = "select count(*) from pgqueue.job_finished"
ASIDE = "select count(*) from pgqueue.job_live where waits_for = 'pause'"
PAUSED = PauseSettings(None, None, "import runs", "alice")


def test_a_worker_runs_other_jobs_at_once_and_sets_aside_those_of_a_paused_task(
    app: App, conn: Conn, ship: Task[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauser, "BATCH", 10)
    monkeypatch.setattr(pauser, "WINDOW", 10)
    for _ in range(35):
        insert_job(conn, task="shop.sync")
    app.pause(task="shop.sync")
    other = ship.enqueue(1)
    asyncio.run(work(app, lambda: scalar(conn, ENDED) == 1 and scalar(conn, ASIDE) == 35))
    assert app.get(other.id).state == "succeeded"


def test_metered_jobs_of_a_paused_task_hold_up_no_other_task_of_their_limit(
    app: App, conn: Conn, ship: Task[[int], int]
) -> None:
    rule(conn, "s", max_running=1)
    metered(conn, keyed("s"), 300)  # of a task t, before the others
    ordered = metered(conn, in_order("o/1"))
    app.pause(task="t")
    (other,) = metered(conn, keyed("s"))
    conn.execute("update pgqueue.job_live set task = %s, args = '{\"n\": 1}' where id = %s", (ship.name, other))
    asyncio.run(work(app, lambda: scalar(conn, ENDED) == 1 and scalar(conn, ASIDE) == 300))
    assert scalar(conn, "select id from pgqueue.job_live where waits_for = 'turn'") == ordered[0]
    app.resume(task="t")
    assert scalar(conn, ASIDE) == 0
    assert scalar(conn, "select count(*) from pgqueue.job_live where waits_for = 'turn'") == 301


def test_a_pause_and_a_resume_reach_an_idle_worker_by_their_notifications(
    app: App, conn: Conn, ship: Task[[int], int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With poll intervals of a day nothing but the notifications can have woken it."""
    for name in ("INTERVAL", "PAUSED_SECONDS"):
        monkeypatch.setattr(pauser, name, 86400.0)

    async def scenario() -> None:
        async with working(app, poll_seconds=86400.0):
            await eventually(lambda: scalar(conn, "select count(*) = 1 from pgqueue.worker where waiting"))
            await app.apause(task=ship.name, why="import runs", by="alice")
            await eventually(lambda: "is paused by alice: import runs" in caplog.text)
            await ship.aenqueue_many([{"n": 1}, {"n": 2}])
            app.pause(task=ship.name)  # it looks again
            await eventually(lambda: scalar(conn, ASIDE) == 2)
            assert scalar(conn, ENDED) == 0
            await app.aresume(task=ship.name)
            await eventually(lambda: scalar(conn, ENDED) == 2)
            await eventually(lambda: "is not paused any more" in caplog.text)

    caplog.set_level(logging.INFO, "pgqueue.worker")
    asyncio.run(scenario())


def test_a_pause_ends_by_the_clock_and_the_jobs_come_back(app: App, conn: Conn, ship: Task[[int], int]) -> None:
    app.pause(task=ship.name, until=timedelta(seconds=1.5))
    ship.enqueue(1)

    async def scenario() -> None:
        async with working(app, poll_seconds=0.2):
            await eventually(lambda: scalar(conn, ASIDE) == 1)
            await eventually(lambda: scalar(conn, ENDED) == 1)

    asyncio.run(scenario())
    started = "select claimed_at from pgqueue.job_finished"
    assert scalar(conn, started) >= scalar(conn, "select paused_until from pgqueue.task_control")


def test_jobs_that_run_when_their_task_is_paused_end(app: App, conn: Conn) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @app.task(name="slow")
    async def slow() -> None:
        started.set()
        await go_on.wait()

    slow.enqueue()

    async def scenario() -> None:
        async with working(app):
            await started.wait()
            await app.apause(task="slow")
            assert not await app.adrain(task="slow", timeout=0.1)
            go_on.set()
            assert await app.adrain(task="slow", timeout=30)

    asyncio.run(scenario())
    assert scalar(conn, ENDED) == 1


SHOP = """
import pgqueue
from pgqueue.worker.duties import pauser
pauser.BATCH = 20
app = pgqueue.App()

@app.task(name="shop.sync")
def sync() -> None: ...
"""


def test_where_a_worker_is_killed_between_two_batches_another_one_goes_on(
    app: App, conn: Conn, dsn: str, tmp_path: Path
) -> None:
    jobs = 20_000
    (tmp_path / "shop.py").write_text(SHOP)
    conn.execute(
        "insert into pgqueue.job_live (task, queue, state, waits_for, history)"
        f" select 'shop.sync', 'default', 'blocked', 'pause', true from generate_series(1, {jobs})"
    )
    back = "select count(*) from pgqueue.transition where reason = 'task resumed'"
    with Process(tmp_path, dsn, "work", "-A", "shop:app", "-Q", "other") as worker:
        worker.alive_until(lambda: scalar(conn, back) > 0, "the first batch")
        worker.kill()
    first = scalar(conn, back)
    assert 0 < first < jobs
    assert first % 20 == 0
    assert scalar(conn, ASIDE) == jobs - first
    asyncio.run(work(app, lambda: scalar(conn, ASIDE) == 0))
    assert scalar(conn, "select count(*) from pgqueue.job") == jobs
    assert scalar(conn, back) == jobs


def test_a_worker_that_does_not_listen_finds_a_pause_by_its_own(
    dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauser, "INTERVAL", 0.2)
    app = App(dsn, pgbouncer=True)

    async def scenario() -> None:
        async with working(app, poll_seconds=0.2):
            db.run(conn, QUERIES.pauses.pause_tasks(["t"], PAUSED))
            insert_job(conn)
            await eventually(lambda: scalar(conn, ASIDE) == 1)
            conn.execute("update pgqueue.task_control set paused_at = null")  # by SQL: nobody is notified
            await eventually(lambda: scalar(conn, ASIDE) == 0)

    asyncio.run(scenario())
