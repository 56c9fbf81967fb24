"""Named locks in tasks that a worker runs: the holder is the job, whatever kind of task it is."""

import asyncio
import signal
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, LockHeld, db
from tests.conftest import drain, eventually, scalar
from tests.harness import QUERIES, Conn, Process, wait_for, working

HOLDERS = "select job_id, holder from pgqueue.lock_status"
ENDED = "select count(*) from pgqueue.job_finished"
LOST = "select count(*) from pgqueue.transition where error ->> 'type' = 'pgqueue.errors.LockLost'"


def test_the_holder_is_the_job_and_the_next_one_is_told(app: App, conn: Conn) -> None:
    """The seeds' pattern: whoever comes second skips."""
    go = threading.Event()

    @app.task
    def sync(user: int) -> str:
        try:
            with app.lock(f"sync:{user}", ttl=300):
                assert go.wait(30)
                return "synced"
        except LockHeld as held:
            return f"skipped, because of job {held.job_id}: {held}"

    async def scenario() -> None:
        async with working(app):
            first = await sync.aenqueue(42)
            await eventually(lambda: scalar(conn, "select count(*) from pgqueue.lock_status"))
            second = await sync.aenqueue(42)
            await eventually(lambda: scalar(conn, ENDED) == 1)
            skipped = (await app.aget(second.id)).result
            assert skipped.startswith(f"skipped, because of job {first.id}: lock 'sync:42' is held by job {first.id} ")
            assert sync.name in skipped
            assert conn.execute(HOLDERS).fetchone()[0] == first.id  # type: ignore[index]
            go.set()
            await eventually(lambda: scalar(conn, ENDED) == 2)
            assert (await app.aget(first.id)).result == "synced"
            await app.aclose()

    asyncio.run(scenario())
    assert scalar(conn, "select count(*) from pgqueue.named_lock") == 0


def test_an_async_task_holds_a_lock_and_gives_it_back_when_it_is_cancelled(app: App, conn: Conn) -> None:
    @app.task
    async def sync() -> None:
        async with app.lock("k"):
            await asyncio.sleep(60)

    async def scenario() -> None:
        async with working(app):
            job = await sync.aenqueue()
            await eventually(lambda: conn.execute(HOLDERS).fetchone())
            assert conn.execute(HOLDERS).fetchone()[0] == job.id  # type: ignore[index]
            await app.acancel(job.id)
            await eventually(lambda: scalar(conn, ENDED) == 1)
            await eventually(lambda: scalar(conn, "select count(*) from pgqueue.named_lock") == 0)
            await app.aclose()

    asyncio.run(scenario())


def test_a_wait_in_a_thread_ends_when_its_job_is_cancelled(app: App, conn: Conn) -> None:
    @app.task
    def sync() -> None:
        with app.lock("k", wait=None):
            raise AssertionError("two have it")

    async def scenario() -> None:
        async with app.lock("k"), working(app, lease_seconds=3.0):
            job = await sync.aenqueue()
            await eventually(lambda: scalar(conn, "select waited_until > now() from pgqueue.named_lock"))
            await app.acancel(job.id)
            await eventually(lambda: scalar(conn, ENDED) == 1)
            assert (await app.aget(job.id)).state == "cancelled"
        await app.aclose()

    asyncio.run(scenario())


def test_a_lock_in_a_transaction_of_the_job_is_not_part_of_it(app: App, conn: Conn) -> None:
    """It is seen by others at once, and a block that rolls back has not held it in vain."""
    seen: list[Any] = []

    @app.task(max_attempts=1)
    def sync(ctx: Context) -> None:
        with ctx.transaction() as own:
            own.execute("create table public.written (n int)")
            with app.lock("k") as lock:
                seen.append(scalar(conn, "select token from pgqueue.lock_status"))
                seen.append(lock.token)
            seen.append(scalar(conn, "select count(*) from pgqueue.named_lock"))
            raise ValueError("roll back")

    sync.enqueue()
    drain(app, conn)
    assert seen == [seen[1], seen[1], 0]
    assert scalar(conn, "select to_regclass('public.written') is null")
    with app.lock("k") as after:
        assert after.token > seen[1]


SHOP = """
import os, time
import pgqueue

app = pgqueue.App()


@app.task(isolation="process", max_attempts=1)
def apart() -> None:
    with app.lock("apart", ttl=1):
        time.sleep(60)


@app.task
def here() -> None:
    with app.lock("here", ttl=1):
        time.sleep(60)


@app.task
def frozen() -> None:
    with app.lock("frozen", ttl=1) as lock:
        while True:
            time.sleep(0.02)
            lock.check()
"""


@pytest.mark.parametrize("task", ["apart", "here"])
def test_the_lock_of_a_process_that_is_killed_expires_and_is_renewed_until_then(
    tmp_path: Path, dsn: str, conn: Conn, app: App, task: str
) -> None:
    (tmp_path / "locked_shop.py").write_text(SHOP)
    renewed = "select expires_at > acquired_at + interval '1.2 s' from pgqueue.named_lock"
    with Process(tmp_path, dsn, "work", "-A", "locked_shop:app") as worker:
        job = app.enqueue(f"locked_shop.{task}")
        worker.alive_until(lambda: scalar(conn, renewed), "the renewal")
        assert conn.execute(HOLDERS).fetchone()[0] == job.id  # type: ignore[index]
        worker.kill()
    heir = app.lock(task, wait=30)
    with heir:
        assert heir.token > 1


def test_a_worker_that_was_frozen_learns_that_another_has_its_lock(
    tmp_path: Path, dsn: str, conn: Conn, app: App
) -> None:
    (tmp_path / "locked_shop.py").write_text(SHOP)
    with Process(tmp_path, dsn, "work", "-A", "locked_shop:app") as worker:
        app.enqueue("locked_shop.frozen")
        worker.alive_until(lambda: conn.execute(HOLDERS).fetchone(), "the lock")
        first = scalar(conn, "select token from pgqueue.lock_status")
        worker.signal(signal.SIGSTOP)
        with app.lock("frozen", wait=30) as heir:
            worker.signal(signal.SIGCONT)
            worker.alive_until(lambda: scalar(conn, LOST), "the end of the attempt")
            heir.check()
            assert heir.token > first
            assert scalar(conn, "select token from pgqueue.named_lock") == heir.token


def test_a_job_that_was_rescued_meets_the_lock_of_the_attempt_that_still_runs(app: App, conn: Conn) -> None:
    """The worker was declared lost, and its thread goes on: the lock is what keeps the two apart."""
    go = threading.Event()
    ran: list[str] = []

    @app.task(max_attempts=5)
    def sync(ctx: Context) -> None:
        with app.lock("k"):
            ran.append(f"attempt {ctx.attempt}")
            assert go.wait(30)

    async def scenario() -> None:
        async with working(app):
            job = await sync.aenqueue()
            await eventually(lambda: ran)
            worker = scalar(conn, "select worker_id from pgqueue.job_live")
            conn.execute("update pgqueue.worker set lost_at = now()")
            db.run(conn, QUERIES.jobs.rescue(worker, 5, {}, 10))
            with pytest.raises(LockHeld) as held, app.lock("k"):
                pass
            assert held.value.job_id == job.id
            go.set()
            await eventually(lambda: scalar(conn, ENDED) == 1)
        await app.aclose()

    asyncio.run(scenario())
    assert wait_for(lambda: scalar(conn, "select count(*) from pgqueue.named_lock") == 0)


def test_a_lost_lock_fails_the_attempt(app: App, conn: Conn, dsn: str) -> None:
    @app.task(max_attempts=1)
    def sync() -> None:
        with app.lock("k"), psycopg.connect(dsn, autocommit=True) as operator:
            operator.execute("delete from pgqueue.named_lock")

    job = sync.enqueue()
    drain(app, conn)
    assert app.get(job.id).error.type == "pgqueue.errors.LockLost"  # type: ignore[union-attr]
