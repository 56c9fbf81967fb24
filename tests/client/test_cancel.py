"""Cancelling jobs: waiting ones at once, running ones through their worker."""

import asyncio
import threading

import psycopg
import pytest

from pgqueue import App, Context, UnknownJob, db
from pgqueue.db.link import Link
from pgqueue.events import Event, StaleWrite, WaitingJobCancelled
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.duties.resolver import Resolver
from pgqueue.worker.signals import WorkerSignals
from tests.conftest import DEADLINE, eventually, scalar, work
from tests.harness import QUERIES, WORKER, Conn, InThread, add_worker, insert_job, new_job, wait_blocked, wait_for

REASON = "select reason from pgqueue.job where id = %s and state = 'cancelled'"


def cancel(conn: Conn, job: int, reason: str) -> str | None:
    """Cancel a job; return the state that it had."""
    found = db.run(conn, QUERIES.jobs.cancel([job], reason))
    return found[0].state if found else None


def test_a_waiting_job_is_cancelled_at_once_and_never_runs(app: App, conn: Conn) -> None:
    job = app.enqueue("t")
    assert app.cancel(job.id) is True
    assert scalar(conn, REASON, job.id) == "cancelled by request"
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0


def test_cancelling_a_waiting_job_emits_an_event_and_a_request_to_a_running_one_is_seen(app: App, conn: Conn) -> None:
    seen: list[WaitingJobCancelled] = []
    app.on(WaitingJobCancelled)(seen.append)
    waiting, running = insert_job(conn), insert_job(conn, queue="other")
    db.run(conn, QUERIES.jobs.claim(add_worker(conn), {"other": 1}, 1))
    assert app.cancel(waiting)
    assert not app.cancel(running)
    assert seen == [WaitingJobCancelled(waiting, "t", "default", "cancelled by request")]
    assert app.get(running).cancel_requested_at is not None
    assert app.get(waiting).cancel_requested_at is None


def test_a_cancellation_rolls_back_with_its_transaction(app: App, conn: Conn, dsn: str) -> None:
    job = app.enqueue("t")
    with psycopg.connect(dsn) as borrowed:
        assert app.using(borrowed).cancel(job.id) is True
        borrowed.rollback()
    assert scalar(conn, "select state from pgqueue.job where id = %s", job.id) == "pending"


def test_a_job_that_has_ended_or_never_was_cannot_be_cancelled(app: App) -> None:
    job = app.enqueue("t")
    app.cancel(job.id)
    for gone in (job.id, 4711):
        with pytest.raises(UnknownJob, match=str(gone)):
            app.cancel(gone)


def test_a_running_async_job_is_cancelled_by_its_worker(app: App, conn: Conn) -> None:
    started = threading.Event()

    @app.task
    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    job = endless.enqueue()

    def cancelled() -> bool:
        if started.is_set():
            started.clear()
            assert app.cancel(job.id) is False
        return scalar(conn, REASON, job.id) == "cancelled by request"

    asyncio.run(work(app, cancelled))
    assert scalar(conn, "select attempt from pgqueue.job where id = %s", job.id) == 1


def test_a_running_job_in_a_thread_sees_that_it_is_cancelled(app: App, conn: Conn) -> None:
    started = threading.Event()

    @app.task
    def patient(ctx: Context) -> None:
        started.set()
        for _ in range(3000):
            ctx.check()
            threading.Event().wait(0.01)

    job = patient.enqueue()

    def cancelled() -> bool:
        if started.is_set():
            started.clear()
            app.cancel(job.id)
        return scalar(conn, REASON, job.id) == "cancelled by request"

    asyncio.run(work(app, cancelled))


def test_a_job_that_would_be_retried_ends_when_it_was_cancelled_meanwhile(conn: Conn) -> None:
    job = _running(conn)
    assert cancel(conn, job.id, "no longer wanted") == "running"
    assert db.run(conn, QUERIES.jobs.resolve([(job, Resolution("retry", "error", 5.0))])) == {job.id}
    assert scalar(conn, REASON, job.id) == "cancelled by request"


def test_a_job_that_succeeds_before_it_can_be_stopped_has_succeeded(conn: Conn) -> None:
    job = _running(conn)
    db.run(conn, QUERIES.jobs.cancel([job.id], "no longer wanted"))
    assert db.run(conn, QUERIES.jobs.resolve([(job, Resolution("succeed"))])) == {job.id}
    assert scalar(conn, "select state from pgqueue.job where id = %s", job.id) == "succeeded"


def test_a_cancellation_waits_for_a_claim_in_flight_and_then_finds_the_job_running(conn: Conn, dsn: str) -> None:
    job = _enqueued(conn)
    with psycopg.connect(dsn) as a, psycopg.connect(dsn, autocommit=True) as b:
        assert len(db.run(a, QUERIES.jobs.claim(WORKER, {"default": 1}, 1))) == 1
        cancelling = InThread(lambda: cancel(b, job, "late"))
        wait_blocked(conn, b, a)
        a.commit()
        assert cancelling.result() in ("pending", "running")
    assert scalar(conn, "select cancel_requested_at is not null from pgqueue.job_live where id = %s", job) is True


def test_a_cancellation_and_a_claim_at_once_leave_the_job_cancelled(conn: Conn, dsn: str) -> None:
    job = _enqueued(conn)
    with psycopg.connect(dsn) as a, psycopg.connect(dsn, autocommit=True) as b:
        assert cancel(a, job, "first") == "pending"
        assert db.run(b, QUERIES.jobs.claim(WORKER, {"default": 1}, 1)) == []
        a.commit()
        assert db.run(b, QUERIES.jobs.claim(WORKER, {"default": 1}, 1)) == []
    assert scalar(conn, REASON, job) == "first"


GOING_ON = [
    Resolution("retry", "error", 5.0),
    Resolution("snooze", "later", 5.0, refund=True),
    Resolution("release", "released", refund=True),
    Resolution("park", "unknown task", refund=True),
]


@pytest.mark.parametrize("resolution", GOING_ON, ids=lambda resolution: resolution.verb)
def test_a_worker_that_puts_a_job_back_while_its_cancellation_is_in_flight_ends_it(
    conn: Conn, dsn: str, resolution: Resolution
) -> None:
    job = _running(conn)
    heard: list[Event] = []

    async def put_back() -> None:
        link = Link(db.Database(dsn), "putting back")
        app = App(dsn)
        app.listeners.add(StaleWrite, heard.append)
        resolver = Resolver(link, app, WorkerSignals())
        try:
            resolver.add(job, resolution)
            await resolver.step()
        finally:
            await link.close()

    with psycopg.connect(dsn) as borrowed:
        assert cancel(borrowed, job.id, "no longer wanted") == "running"
        putting_back = InThread(lambda: asyncio.run(put_back()))
        blocked = "select count(*) = 1 from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
        wait_for(lambda: scalar(conn, blocked, borrowed.info.backend_pid), "the outcome to wait for the cancellation")
        borrowed.commit()
        putting_back.result()
    assert scalar(conn, REASON, job.id) == "cancelled by request"
    assert not heard


def test_a_claim_that_was_never_answered_is_not_given_back_when_its_job_was_cancelled(conn: Conn) -> None:
    job, other = _running(conn), _running(conn)
    db.run(conn, QUERIES.jobs.cancel([job.id], "no longer wanted"))
    assert set(db.run(conn, QUERIES.jobs.release_strays(WORKER, []))) == {job.id, other.id}
    assert scalar(conn, REASON, job.id) == "cancelled by request"
    assert scalar(conn, "select state || attempt from pgqueue.job_live where id = %s", other.id) == "pending0"


def test_giving_back_a_claim_waits_for_a_cancellation_in_flight_and_then_ends_the_job(conn: Conn, dsn: str) -> None:
    job = _running(conn)
    with psycopg.connect(dsn) as a, psycopg.connect(dsn, autocommit=True) as b:
        db.run(a, QUERIES.jobs.cancel([job.id], "no longer wanted"))
        giving_back = InThread(lambda: db.run(b, QUERIES.jobs.release_strays(WORKER, [])))
        wait_blocked(conn, b, a)
        a.commit()
        assert giving_back.result() == [job.id]
    assert scalar(conn, REASON, job.id) == "cancelled by request"
    moves = "select array_agg(from_state || '-' || to_state) from pgqueue.transition where from_state is not null"
    assert scalar(conn, moves) == ["pending-running", "running-cancelled"]


def _enqueued(conn: Conn) -> int:
    return db.run(conn, QUERIES.jobs.enqueue([new_job()]))[0].id


def _running(conn: Conn) -> ClaimedJob:
    _enqueued(conn)
    (job,) = db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 1}, 1))
    return job


def test_a_worker_that_is_stopping_still_cancels_its_jobs(app: App, conn: Conn) -> None:
    """Its shutdown timeout is long: without the cancellation it would wait for the job."""
    started = asyncio.Event()

    @app.task
    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    async def scenario() -> None:
        worker = Worker(app, WorkerSettings(shutdown_timeout=3600.0))
        running = asyncio.create_task(worker.run())
        job = endless.enqueue()
        await started.wait()
        worker.stop()
        stopping = "select bool_or(stopping) from pgqueue.worker"
        await eventually(lambda: scalar(conn, stopping), "the worker to be stopping")
        assert await app.acancel(job.id) is False
        await asyncio.wait_for(running, DEADLINE)
        assert scalar(conn, REASON, job.id) == "cancelled by request"

    asyncio.run(scenario())
