"""Events, middleware, and the job on each line of the log."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgqueue import App, Context, InvalidOption, Retry, Snooze, db, events
from pgqueue.process.logs import JobFilter, JsonFormatter
from tests.conftest import drain, scalar, work
from tests.harness import QUERIES, Conn, insert_job


@pytest.fixture
def heard(app: App) -> list[events.Event]:
    """Every event in this process."""
    heard: list[events.Event] = []
    app.on(events.Event)(heard.append)
    return heard


def kinds(heard: list[events.Event]) -> list[str]:
    return [type(event).__name__ for event in heard if isinstance(event, events.JobEvent)]


def test_the_events_of_a_job_that_fails_once_come_in_order(app: App, conn: Conn, heard: list[events.Event]) -> None:
    @app.task(name="t", retry=[0.01])
    async def t(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise LookupError("once")

    job = t.enqueue()
    drain(app, conn)
    again = ["JobClaimed", "JobStarted"]
    assert kinds(heard) == ["JobEnqueued", *again, "JobRetried", *again, "JobSucceeded"]
    retried = next(event for event in heard if isinstance(event, events.JobRetried))
    assert (retried.job_id, retried.task, retried.attempt, retried.delay) == (job.id, "t", 1, 0.01)
    assert retried.error is not None
    assert retried.error.type == "LookupError"
    assert [type(e) for e in (heard[1], heard[-1])] == [events.WorkerStarted, events.WorkerStopped]


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(Snooze(3600), "JobSnoozed"), (Retry(delay=3600), "JobRetried"), (ValueError(), "JobDeadLettered")],
)
def test_each_end_of_an_attempt_is_an_event_of_its_own(
    app: App, conn: Conn, heard: list[events.Event], raised: Exception, kind: str
) -> None:
    @app.task(name="t", no_retry_on=ValueError)
    async def t() -> None:
        raise raised

    t.enqueue()
    asyncio.run(work(app, lambda: kind in kinds(heard)))


@pytest.mark.parametrize("place", ["thread", "loop", "process", "loop of a process"])
@pytest.mark.parametrize("given", ["lent", "own"])
def test_a_job_that_its_own_transaction_has_completed_has_succeeded(
    app: App, conn: Conn, heard: list[events.Event], place: str, given: str
) -> None:
    dsn, seen = app.dsn, list[tuple[int, str]]()

    @app.on(events.JobSucceeded)
    def look(event: events.JobSucceeded) -> None:
        seen.append((event.job_id, scalar(conn, "select state from pgqueue.job where id = %s", event.job_id)))

    def pay(ctx: Context) -> None:
        with psycopg.connect(dsn) as own, ctx.transaction(*[own] if given == "own" else []):
            pass

    async def apay(ctx: Context) -> None:
        if given == "own":
            async with await psycopg.AsyncConnection.connect(dsn) as own, ctx.transaction(own):
                pass
        else:
            async with ctx.atransaction():
                pass

    isolated: Any = {"isolation": "process"} if "process" in place else {}
    job = app.task(name="pay", **isolated)(apay if "loop" in place else pay).enqueue()
    drain(app, conn)
    assert seen == [(job.id, "succeeded")]
    assert kinds(heard) == ["JobEnqueued", "JobClaimed", "JobStarted", "JobSucceeded"]


def test_bulk_enqueue_tells_of_each_job(app: App, heard: list[events.Event]) -> None:
    @app.task(name="t")
    def t(n: int) -> None: ...

    ids = t.enqueue_many({"n": n} for n in range(3))
    assert [e.job_id for e in heard if isinstance(e, events.JobEnqueued)] == ids


def test_a_stale_write_is_an_event_and_stops_nothing(app: App, conn: Conn, heard: list[events.Event]) -> None:
    @app.task(name="t")
    def t() -> None:
        with psycopg.connect(app.dsn, autocommit=True) as thief:
            thief.execute("update pgqueue.job_live set lease = lease + 1")

    t.enqueue()
    asyncio.run(work(app, lambda: "StaleWrite" in kinds(heard)))


def test_a_rescue_is_an_event(app: App, conn: Conn, heard: list[events.Event]) -> None:
    now = scalar(conn, "select now()")
    job = insert_job(
        conn, task="t", state="running", worker_id="00000000-0000-0000-0000-000000000009", claimed_at=now,
        attempt=1, lease=1, max_attempts=5,
    )  # fmt: skip
    asyncio.run(work(app, lambda: events.JobRescued(job, "pending") in heard))


def test_the_errors_of_listeners_are_logged_and_change_nothing(
    app: App, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    @app.on(events.JobStarted)
    def broken(event: events.JobStarted) -> None:
        raise RuntimeError("listener")

    @app.on(events.JobSucceeded)
    async def broken_too(event: events.JobSucceeded) -> None:
        raise RuntimeError("async listener")

    @app.task(name="t")
    async def t() -> None: ...

    t.enqueue()
    drain(app, conn)
    assert scalar(conn, "select state from pgqueue.job") == "succeeded"
    assert caplog.text.count("RuntimeError: ") == 2


def test_what_cannot_listen_is_refused(app: App) -> None:
    async def late(event: Any) -> None: ...

    for kind in (
        events.JobEnqueued,
        events.Event,
        events.JobEvent,
        events.LockLost,
        events.LockWaited,
        events.LockEvent,
    ):
        with pytest.raises(InvalidOption, match="no event loop"):
            app.on(kind)(late)
    with pytest.raises(InvalidOption, match=r"pgqueue\.events"):
        app.on(int)(late)  # type: ignore[type-var]


def test_middlewares_wrap_each_job_in_the_order_they_were_added(app: App, conn: Conn) -> None:
    seen: list[str] = []

    def wrapping(name: str) -> None:
        @app.middleware
        async def around(ctx: Context, call_next: Callable[[], Awaitable[Any]]) -> None:
            seen.append(f"{name} before {ctx.task}")
            seen.append(f"{name} after {type(await call_next()).__name__}")

    wrapping("outer")
    wrapping("inner")

    @app.task(name="t")
    def t() -> None:
        seen.append("task")

    t.enqueue()
    drain(app, conn)
    assert seen == [
        "outer before t", "inner before t", "task", "inner after Succeeded", "outer after Succeeded",
    ]  # fmt: skip


@pytest.mark.parametrize("when", ["before", "after", "instead", "twice"])
def test_a_middleware_cannot_change_an_outcome(app: App, conn: Conn, when: str) -> None:
    runs = []

    @app.middleware
    async def broken(ctx: Context, call_next: Callable[[], Awaitable[Any]]) -> None:
        if when == "before":
            raise RuntimeError("middleware")
        if when != "instead":
            await call_next()
        if when == "twice":
            await call_next()
        if when == "after":
            raise RuntimeError("middleware")

    @app.task(name="t")
    async def t() -> int:
        runs.append(1)
        return 7

    t.enqueue()
    drain(app, conn)
    assert (runs, scalar(conn, "select state || (result::text) from pgqueue.job")) == ([1], "succeeded7")


def test_what_is_no_coroutine_function_is_no_middleware(app: App) -> None:
    with pytest.raises(InvalidOption, match="async def"):
        app.middleware(lambda ctx, call_next: call_next())


def test_each_line_that_a_task_logs_names_its_job(app: App, conn: Conn) -> None:
    lines: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter().format(record)))

    handler = Keep()
    handler.addFilter(JobFilter())
    logger = logging.getLogger("shop")
    logger.addHandler(handler)

    @app.task(name="in_thread")
    def in_thread(secret: str) -> None:
        logger.warning("from a thread")

    @app.task(name="on_loop")
    async def on_loop(secret: str) -> None:
        logger.warning("from the loop")

    first, second = in_thread.enqueue(secret="s3"), on_loop.enqueue(secret="s3")
    drain(app, conn)
    logger.removeHandler(handler)
    named = {(line["message"], line["job_id"], line["task"], line["attempt"]) for line in lines}
    assert named == {("from a thread", first.id, "in_thread", 1), ("from the loop", second.id, "on_loop", 1)}
    assert "s3" not in json.dumps(lines)


def test_the_schedulers_event_says_which_tick_became_which_job(app: App, conn: Conn) -> None:
    from pgqueue.db.link import Link
    from pgqueue.scheduler import SchedulerSettings, Ticker, declare

    heard: list[events.ScheduleFired] = []
    app.on(events.ScheduleFired)(heard.append)

    @app.schedule(3600, name="hourly")
    @app.task(name="t")
    def t() -> None: ...

    async def fire() -> None:
        link = Link(app.database, "test")
        await declare(app, link)
        conn.execute("update pgqueue.schedule set next_tick = next_tick - interval '3 hours'")
        await Ticker(app, link, SchedulerSettings()).fire()
        await link.close()

    asyncio.run(fire())
    (fired,) = heard
    found = db.run(conn, QUERIES.jobs.get(fired.job_id))
    assert found is not None
    assert (fired.schedule, fired.missed, found.task) == ("hourly", 2, "t")


def test_the_former_name_of_an_event_is_the_event_and_warns(app: App) -> None:
    with pytest.warns(DeprecationWarning, match="JobDied is called JobDeadLettered now"):
        from pgqueue.events import JobDied
    heard: list[events.Event] = []
    app.on(JobDied)(heard.append)
    died = JobDied(1, "t", "default", 1, 1, UUID(int=1), "exhausted", None)
    app.listeners.emit(died)
    assert JobDied is events.JobDeadLettered
    assert heard == [died]
    with pytest.raises(AttributeError, match="no attribute 'JobBuried'"):
        events.JobBuried  # type: ignore[attr-defined]  # noqa: B018
