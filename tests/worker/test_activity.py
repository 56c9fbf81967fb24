"""What a worker did is in `activity`: each ended attempt once, however it ended, and none that was not written."""

import asyncio
import threading

import psycopg
import pytest

from pgqueue import App, Cancel, Context, Fail, Retry, Snooze
from pgqueue.worker.duties import activity_writer
from tests.conftest import drain, eventually, scalar, work
from tests.harness import Conn, add_worker, insert_job

COUNTS = "select outcome, sum(jobs)::int from pgqueue.activity where task = %s group by outcome"
ONCE = {"retry": Retry(delay=0.01), "snooze": Snooze(0.01, "later"), "error": ValueError("no")}
ENDS = {"fail": Fail("no"), "cancel": Cancel("no")}


def counted(conn: Conn, task: str) -> dict[str, int]:
    return dict(conn.execute(COUNTS, [task]).fetchall())


def test_each_end_of_an_attempt_is_counted_once(app: App, conn: Conn) -> None:
    seen: set[str] = set()

    @app.task(name="ends", retry=[0.01])
    async def ends(ctx: Context, how: str) -> None:
        if how in ENDS:
            raise ENDS[how]
        if how in ONCE and how not in seen:
            seen.add(how)
            raise ONCE[how]
        if how == "transaction":
            async with ctx.atransaction():
                pass

    for how in ("well", "well", "transaction", *ONCE, *ENDS):
        ends.enqueue(how)
    insert_job(conn, task="nobody knows it")
    insert_job(conn, task="ends", expires_at="2026-01-01")
    quiet = "select count(*) = 0 from pgqueue.job_live where state <> 'blocked'"
    asyncio.run(work(app, lambda: scalar(conn, quiet)))
    assert counted(conn, "ends") == {
        "succeeded": 6, "retried": 2, "snoozed": 1, "failed": 1, "cancelled": 1, "expired": 1,
    }  # fmt: skip
    assert counted(conn, "nobody knows it") == {"parked": 1}


def test_jobs_of_dead_workers_are_counted_too(app: App, conn: Conn) -> None:
    dead = add_worker(conn, lost=True)
    for spent in (False, True):
        insert_job(conn, task="nobody runs it", state="running", worker_id=dead, claimed_at="2026-01-01Z", lease=1,
                   attempt=1, max_attempts=1 if spent else 2, queue="away")  # fmt: skip
    rescued = "select count(*) = 0 from pgqueue.job_live where state = 'running'"
    asyncio.run(work(app, lambda: scalar(conn, rescued)))
    assert counted(conn, "nobody runs it") == {"rescued": 1, "failed": 1}


def test_the_time_to_run_and_to_wait_is_measured_in_a_thread_too(app: App, conn: Conn) -> None:
    ended = threading.Event()

    @app.task(name="slow")
    def slow() -> None:
        ended.wait(0.2)

    slow.enqueue()
    conn.execute("update pgqueue.job_live set run_at = now() - interval '1 hour'")
    drain(app, conn)
    (row,) = conn.execute("select jobs, run_seconds, wait_seconds, run_counts::text from pgqueue.activity").fetchall()
    assert row[0] == 1
    assert 0.2 <= row[1] < 10
    assert 3600 <= row[2] < 3700
    assert row[3].endswith("={1}")


def test_an_outcome_that_was_not_written_is_not_counted(app: App, conn: Conn) -> None:
    @app.task(name="robbed")
    def robbed() -> None:
        with psycopg.connect(app.dsn, autocommit=True) as thief:
            thief.execute("delete from pgqueue.job_live")

    robbed.enqueue()
    drain(app, conn)
    assert counted(conn, "robbed") == {}


def test_counts_are_written_as_the_worker_goes_and_again_after_a_failure(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(activity_writer, "INTERVAL", 0.02)

    @app.task(name="t")
    async def t() -> None: ...

    async def watch() -> None:
        await asyncio.to_thread(t.enqueue)
        await eventually(lambda: counted(conn, "t") == {"succeeded": 1}, "the first count")
        conn.execute("alter table pgqueue.activity rename to away")
        await asyncio.to_thread(t.enqueue)
        await eventually(lambda: "activity failed, trying again" in caplog.text, "the failure")
        conn.execute("alter table pgqueue.away rename to activity")
        await eventually(lambda: counted(conn, "t") == {"succeeded": 2}, "the second count")

    async def run() -> None:
        watching = asyncio.create_task(watch())
        await work(app, watching.done)
        await watching

    asyncio.run(run())
