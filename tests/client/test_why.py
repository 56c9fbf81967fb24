"""`app.why`: every reason why a job does not run, with its numbers; at a cost that no backlog changes."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from pgqueue import App, Exponential, Reason, UnknownJob, db
from pgqueue.codecs import AESGCM
from tests.client.test_dead import add_dead
from tests.client.test_operator_verbs import OVER, finished_job, running_job, waiting_job
from tests.conftest import drain, scalar
from tests.harness import QUERIES, Conn, add_worker, insert_job

DUE = datetime(2026, 1, 1, tzinfo=UTC)


def reason(app: App, job: int, code: str) -> Reason:
    """Return the reason of that code; fail with all that there are."""
    why = app.why(job)
    (found,) = [one for one in why.reasons if one.code == code] or [pytest.fail(f"{code} is not among {why.codes}")]
    return found


def codes(app: App, job: int) -> tuple[str, ...]:
    return app.why(job).codes


def test_a_job_that_is_next_says_how_many_slots_are_free(app: App, conn: Conn) -> None:
    add_worker(conn)
    job = insert_job(conn, run_at=DUE)
    found = reason(app, job, "next")
    assert (found.facts["slots"], found.facts["running"]) == (8, 0)
    assert "8 of 8 slots are free" in found.text
    assert codes(app, job) == ("next",)


def test_a_scheduled_job_says_when_it_is_due(app: App, conn: Conn) -> None:
    add_worker(conn)
    job = insert_job(conn, run_at=OVER)
    found = reason(app, job, "scheduled")
    assert found.facts["run_at"] == OVER
    assert "2126-01-01 00:00:00+00:00" in found.text
    assert codes(app, job) == ("scheduled",)


def test_a_job_that_waits_for_its_next_attempt_says_which_and_by_which_policy(app: App, conn: Conn) -> None:
    app.task(name="t", retry=Exponential(base=3), max_attempts=7)(lambda: None)
    job = waiting_job(conn, max_attempts=7)
    found = reason(app, job, "retrying")
    assert (found.facts["attempt"], found.facts["max_attempts"]) == (2, 7)
    assert "attempt 2 of 7" in found.text
    assert "Exponential(base=3, factor=2.0, max=3600.0, jitter=True)" in found.text


def test_a_paused_queue_says_by_whom_until_when_and_why(app: App, conn: Conn) -> None:
    add_worker(conn)
    job = insert_job(conn, run_at=DUE)
    conn.execute("insert into pgqueue.queue (name, paused_at, paused_by, paused_until, paused_reason)"
                 " values ('default', now(), 'alice', %s, 'provider is down')", (OVER,))  # fmt: skip
    assert codes(app, job) == ("paused", "due")
    assert "paused by alice" in reason(app, job, "paused").text
    assert "until 2126-01-01 00:00:00+00:00: provider is down" in reason(app, job, "paused").text
    conn.execute("update pgqueue.queue set paused_until = now() - interval '1 s'")
    assert codes(app, job) == ("next",)


@pytest.mark.parametrize("gone", ["lost_at = now()", "heartbeat_at = now() - interval '1 hour'", "stopping = true",
                                  "quiet_at = now()", "queues = '{other}'", "kind = 'scheduler'"])  # fmt: skip
def test_without_a_living_worker_for_the_queue_that_is_said(app: App, conn: Conn, gone: str) -> None:
    add_worker(conn)
    job = insert_job(conn, run_at=DUE)
    conn.execute(f"update pgqueue.worker set {gone}".encode())
    assert codes(app, job) == ("no_worker", "due")
    conn.execute("update pgqueue.worker set lost_at = null, heartbeat_at = now(), stopping = false, quiet_at = null,"
                 " queues = '{d*t}', kind = 'worker'")  # fmt: skip
    assert codes(app, job) == ("next",)


def test_where_nobody_knows_the_task_or_its_version_that_is_said(app: App, conn: Conn) -> None:
    add_worker(conn)
    job = insert_job(conn, task="u", run_at=DUE)
    assert "1 worker serves queue default, and none of them knows task u." in reason(app, job, "unknown_task").text
    newer = insert_job(conn, headers='{"$version": 2}', run_at=DUE)
    assert "knows task version 2 of t" in reason(app, newer, "unknown_task").text
    conn.execute("update pgqueue.worker set tasks = '{t,t@2}'")
    assert "unknown_task" not in codes(app, newer)


def test_a_parked_job_names_the_version_and_the_parameters_that_it_needs(app: App, conn: Conn) -> None:
    job = insert_job(conn, state="blocked", waits_for="task", headers='{"$version": "2+gift"}')
    found = reason(app, job, "blocked")
    assert (found.facts["version"], found.facts["parameters"]) == (2, ["gift"])
    assert "task t version 2 with gift" in found.text


def test_where_all_slots_are_taken_that_is_said(app: App, conn: Conn) -> None:
    worker = add_worker(conn)
    job = insert_job(conn, run_at=OVER)
    for _ in range(8):
        insert_job(conn, state="running", worker_id=worker, claimed_at=DUE, attempt=1)
    conn.execute("update pgqueue.job_live set run_at = %s where id = %s", (DUE, job))
    assert "All 8 slots of the worker" in reason(app, job, "no_slot").text


def test_the_jobs_that_go_first_are_counted_by_priority_and_time(app: App, conn: Conn) -> None:
    add_worker(conn)
    job = insert_job(conn, run_at=DUE, priority=1)
    insert_job(conn, run_at=DUE, priority=1)  # after it, by its id
    insert_job(conn, run_at=DUE, priority=0)
    insert_job(conn, run_at=OVER, priority=5)  # not due
    insert_job(conn, run_at=DUE, priority=5, queue="other")
    assert codes(app, job) == ("next",)
    insert_job(conn, run_at=DUE.replace(year=2025), priority=1)
    assert "1 due job goes before it" in reason(app, job, "ahead").text
    insert_job(conn, run_at=datetime.now(UTC), priority=2)
    assert reason(app, job, "ahead").facts["ahead"] == 2


def test_an_expired_job_a_unique_key_and_a_schedule_are_named(app: App, conn: Conn) -> None:
    headers = '{"schedule": "nightly", "tick": "2026-01-01T00:00:00+00:00"}'
    job = insert_job(conn, run_at=DUE, expires_at=DUE, unique_key=b"k", unique_live=True, headers=headers)
    assert codes(app, job) == ("expired", "no_worker", "due", "unique_key", "schedule")
    assert "until it has ended" in reason(app, job, "unique_key").text
    assert "Schedule nightly fired it" in reason(app, job, "schedule").text


def test_a_running_job_names_its_worker_and_how_that_is(app: App, conn: Conn) -> None:
    job = running_job(conn)
    found = reason(app, job, "running")
    assert (found.facts["host"], found.facts["pid"], found.facts["attempt"]) == ("h", 1, 1)
    app.cancel(job)
    assert codes(app, job) == ("running", "cancel_requested")
    conn.execute("update pgqueue.worker set heartbeat_at = now() - interval '40 s'")
    assert codes(app, job) == ("running", "worker_silent", "cancel_requested")
    conn.execute("update pgqueue.worker set lost_at = now(), death = 'was killed by SIGKILL'")
    assert "was killed by SIGKILL" in reason(app, job, "worker_lost").text
    conn.execute("delete from pgqueue.worker")
    assert "the row of its worker is gone" in reason(app, job, "running").text


def test_the_last_error_and_the_end_are_told(app: App, conn: Conn) -> None:
    @app.task(name="pay", max_attempts=1)
    async def pay() -> None:
        raise ConnectionError("card reader\nof floor 2")

    job = pay.enqueue()
    drain(app, conn)
    assert codes(app, job.id) == ("failed", "last_error")
    assert "dead letter" in reason(app, job.id, "failed").text
    assert reason(app, job.id, "last_error").text.endswith("with ConnectionError: card reader")
    finished_job(conn, 900)
    assert "cancelled at" in reason(app, 900, "cancelled").text
    finished_job(conn, 901, "succeeded")
    assert codes(app, 901) == ("succeeded",)
    add_dead(conn, 902)
    assert codes(app, 902) == ("failed",)
    with pytest.raises(UnknownJob):
        app.why(4711)


def test_a_sealed_error_stays_sealed(dsn: str, conn: Conn) -> None:
    with_key, without = App(dsn, codec=AESGCM({"k": b"0" * 32})), App(dsn)

    @with_key.task(name="pay", max_attempts=1)
    async def pay() -> None:
        raise ValueError("card 4711")

    job = pay.enqueue()
    drain(with_key, conn)
    assert "sealed (key k)" in reason(without, job.id, "last_error").text
    assert "4711" not in str(without.why(job.id))
    assert "card 4711" in reason(with_key, job.id, "last_error").text
    with_key.close()
    without.close()


def test_the_async_twin_says_the_same_and_the_text_has_a_line_for_each_reason(app: App, conn: Conn) -> None:
    job = insert_job(conn, run_at=DUE)
    why = asyncio.run(app.awhy(job))
    assert why.codes == app.why(job).codes
    assert len(str(why).splitlines()) == 2


def fill(conn: Conn, jobs: int) -> int:
    """Insert a backlog of due jobs of three priorities, and one behind them all."""
    conn.execute(
        "insert into pgqueue.job_live (task, queue, priority, run_at)"
        " select 't', 'default', i %% 3, now() - interval '1 hour' from generate_series(1, %s) as i", (jobs,),
    )  # fmt: skip
    return insert_job(conn, run_at=datetime.now(UTC), priority=-1)


def blocks_read(conn: Conn, query: Any) -> int:
    """Return how many blocks a statement touches."""
    with conn.transaction():
        db.run(conn, QUERIES.jobs.prefer_indexes())
        plan = conn.execute(b"explain (analyze, buffers, format json) " + query.sql, query.params).fetchone()
    assert plan is not None
    top = plan[0][0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


@pytest.mark.parametrize("analyzed", [True, False])
def test_what_why_reads_does_not_grow_with_the_backlog(app: App, conn: Conn, analyzed: bool) -> None:
    """Ten thousand entries ahead are read, and no more, also where the statistics know nothing."""
    read: list[int] = []
    for jobs in (30_000, 120_000):
        job = fill(conn, jobs)
        if analyzed:
            conn.execute("vacuum analyze pgqueue.job_live")
        found = app.get(job)
        assert reason(app, job, "ahead").facts == {
            "ahead": 10_000, "at_least": True, "due_seconds": pytest.approx(0, abs=60)
        }  # fmt: skip
        read.append(blocks_read(conn, QUERIES.why.ahead(found)) + blocks_read(conn, QUERIES.why.waits(job)))
    assert read[1] < 2 * read[0]
    began = time.monotonic()
    app.why(job)
    assert time.monotonic() - began < 5
    first = int(scalar(conn, "select id from pgqueue.job_live order by priority desc, run_at, id limit 1"))
    assert blocks_read(conn, QUERIES.why.ahead(app.get(first))) < 100
