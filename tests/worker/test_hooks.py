"""Hooks around runs and around enqueueing: where they are called, with what, and that they change nothing."""

import asyncio
import contextvars
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgqueue import (
    App,
    AttemptEnd,
    Cancel,
    Context,
    DuplicateJob,
    EnqueueCall,
    Fail,
    InvalidOption,
    Retry,
    Snooze,
    Unique,
)
from pgqueue.client.enqueue_hooks import EnqueueHooks
from pgqueue.jobs.outcome import Succeeded
from pgqueue.tasks.hooks import AttemptHooks
from pgqueue.testing import context, rolled_back
from tests.conftest import drain, eventually, work
from tests.harness import Conn, new_job, working
from tests.scheduler.ticking import fire

place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="outside")


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def ends(app: App) -> list[AttemptEnd]:
    """What a hook is told of the ends of runs, in this process."""
    ends: list[AttemptEnd] = []
    app.on_attempt_end(ends.append)
    return ends


class Boom(Exception):
    """What tasks raise here."""


def _raise(error: BaseException) -> None:
    raise error


ENDS: list[tuple[Callable[[], object], str, type[BaseException] | None]] = [
    (lambda: 42, "succeeded", None),
    (lambda: _raise(Boom("x")), "retried", Boom),
    (lambda: _raise(SystemExit(1)), "retried", SystemExit),
    (lambda: _raise(Retry(delay=99)), "retried", Retry),
    (lambda: _raise(Fail("x")), "failed", Fail),
    (lambda: _raise(KeyError("x")), "failed", KeyError),
    (lambda: _raise(Snooze(99)), "snoozed", Snooze),
    (lambda: _raise(Cancel("x")), "cancelled", Cancel),
]


@pytest.mark.parametrize("kind", ["thread", "loop", "coroutine of a thread", "middleware"])
@pytest.mark.parametrize(("body", "outcome", "error"), ENDS, ids=[f"{e[1]}-{e[2] and e[2].__name__}" for e in ENDS])
def test_a_hook_gets_the_outcome_and_the_exception_itself(
    app: App, ends: list[AttemptEnd], kind: str, body: Any, outcome: str, error: Any
) -> None:
    async def on_loop() -> object:
        await asyncio.sleep(0)
        return body()

    if kind == "middleware":

        @app.middleware
        async def around(ctx: Context, call_next: Any) -> None:
            await call_next()

    functions: dict[str, Any] = {"loop": on_loop, "coroutine of a thread": lambda: on_loop()}
    task: Any = app.task(name="t", no_retry_on=KeyError, retry=99)(functions.get(kind, lambda: body()))
    task.enqueue()
    asyncio.run(work(app, lambda: ends))
    assert [(end.outcome, end.context.task) for end in ends] == [(outcome, "t")]
    assert type(ends[0].error) is (error or type(None))


def test_the_last_attempt_that_fails_has_failed(app: App, conn: Conn, ends: list[AttemptEnd]) -> None:
    @app.task(name="t", max_attempts=2, retry=0)
    def t() -> None:
        raise Boom

    t.enqueue()
    drain(app, conn)
    assert [end.outcome for end in ends] == ["retried", "failed"]


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("kind", ["def", "async def", "def that returns a coroutine"])
def test_what_a_hook_sets_is_there_for_the_task_and_at_its_end_and_nowhere_else(
    app: App, conn: Conn, tmp_path: Path, isolation: Any, kind: str
) -> None:
    @app.around_attempt
    def around(ctx: Context) -> Callable[[AttemptEnd], None]:
        token = place.set(f"{os.getpid()} {threading.get_ident()} {place.get()}")

        def end(end: AttemptEnd) -> None:
            (tmp_path / "end").write_text(f"{place.get()} {end.context.attempt}")
            place.reset(token)

        return end

    def plain() -> str:
        return f"{place.get()} {os.getpid()} {threading.get_ident()}"

    async def on_loop() -> str:
        await asyncio.sleep(0)
        return plain()

    functions: dict[str, Any] = {"def": plain, "async def": on_loop}
    job = app.task(name="t", isolation=isolation)(functions.get(kind, lambda: on_loop())).enqueue()
    drain(app, conn)
    pid, thread, before, own_pid, own_thread = app.get(job.id).result.split()
    assert (tmp_path / "end").read_text() == f"{pid} {thread} {before} 1"
    assert (pid, before) == (own_pid, "outside")
    assert (thread == own_thread) == (kind != "def that returns a coroutine" or isolation == "process")
    assert (pid == str(os.getpid())) == (isolation == "thread")
    assert place.get() == "outside"


def test_a_child_process_that_ends_in_order_calls_the_function_for_it(app: App, conn: Conn, tmp_path: Path) -> None:
    @app.on_child_stop
    def broken() -> None:
        raise Boom

    @app.on_child_stop
    def stop() -> None:
        (tmp_path / str(os.getpid())).touch()

    @app.task(name="t", isolation="process")
    def t() -> int:
        return os.getpid()

    job = t.enqueue()
    drain(app, conn)
    assert [path.name for path in tmp_path.iterdir()] == [str(app.get(job.id).result)]


def test_a_run_that_the_worker_cuts_off_is_cancelled_if_somebody_asked_for_that_and_else_released(
    app: App, ends: list[AttemptEnd]
) -> None:
    started = threading.Event()

    @app.task(name="t")
    async def t() -> None:
        started.set()
        await asyncio.sleep(600)

    async def scenario() -> None:
        async with working(app, shutdown_timeout=0):
            job = await t.aenqueue()
            await eventually(started.is_set)
            await app.acancel(job.id)
            await eventually(lambda: ends)
            started.clear()
            await t.aenqueue()
            await eventually(started.is_set)

    asyncio.run(scenario())
    assert [(end.outcome, type(end.error)) for end in ends] == [
        ("cancelled", asyncio.CancelledError),
        ("released", asyncio.CancelledError),
    ]


def test_errors_of_hooks_are_logged_and_change_nothing(
    app: App, conn: Conn, ends: list[AttemptEnd], caplog: pytest.LogCaptureFixture
) -> None:
    app.around_attempt(lambda ctx: _raise(Boom("begin")))  # type: ignore[arg-type, return-value]
    app.on_attempt_end(lambda end: _raise(Boom("end")))
    app.around_enqueue(lambda call: _raise(Boom("enqueue")))  # type: ignore[arg-type, return-value]
    app.around_enqueue(lambda call: lambda error: _raise(Boom("enqueued")))
    app.around_enqueue(lambda call: call.headers.update({"$version": "9"}))

    @app.task(name="t")
    def t() -> int:
        return 42

    job = t.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == 42
    assert [end.outcome for end in ends] == ["succeeded"]
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert lines == [
        "a hook around the enqueueing of t raised Boom",
        "a hook around the enqueueing of t raised InvalidOption",
        "a hook around the enqueueing of t raised Boom",
        f"job {job.id}: a hook raised Boom",
        f"job {job.id}: a hook raised Boom",
    ]


def test_an_async_function_is_no_hook(app: App) -> None:
    async def hook(_: object) -> None: ...

    verbs: list[Any] = [app.around_attempt, app.on_attempt_end, app.around_enqueue]
    for verb in verbs:
        with pytest.raises(InvalidOption, match="give a def"):
            verb(hook)


def test_a_job_that_runs_no_task_calls_no_hook(app: App, conn: Conn, ends: list[AttemptEnd]) -> None:
    @app.task(name="t")
    def t(n: int) -> None: ...

    conn.execute("select pgqueue.enqueue('t', '{\"n\": \"x\"}'), pgqueue.enqueue('unknown')")
    drain(app, conn)
    assert ends == []


def test_a_run_in_a_test_calls_the_hooks(app: App, ends: list[AttemptEnd]) -> None:
    @app.task(name="t")
    def t() -> None: ...

    with rolled_back(app) as jobs:
        t.enqueue()
        jobs.drain()
    assert [end.outcome for end in ends] == ["succeeded"]


def test_a_hook_around_enqueueing_sees_each_call_and_adds_headers_but_the_callers_count_more(
    app: App, conn: Conn, dsn: str
) -> None:
    seen: list[tuple[Any, ...]] = []

    @app.around_enqueue
    def around(call: EnqueueCall) -> Callable[[BaseException | None], None]:
        call.headers |= {"from": "hook", "count": str(call.count)}

        def end(error: BaseException | None) -> None:
            seen.append((call.task, call.queue, call.count, call.schedule, len(call.job_ids), type(error)))

        return end

    @app.task(name="t", queue="q")
    def t(n: int = 0) -> None: ...

    t.using(conn, headers={"from": "caller"}).enqueue()
    app.using(conn).enqueue("by name")
    asyncio.run(t.aenqueue())
    t.using(conn).enqueue_many({"n": n} for n in range(3))
    t.using(conn, idempotency_key=["a", "a"]).enqueue_many([{}, {}])
    t.using(conn, unique=Unique()).enqueue_many([{"n": 1}])
    asyncio.run(t.aenqueue_many([{}]))
    app.schedules.create("s", t, 3600)
    app.schedules.run("s")
    conn.execute("update pgqueue.schedule set next_tick = now()")
    assert fire(app, dsn) == 1
    none = type(None)
    assert seen == [
        ("t", "q", 1, None, 1, none),
        ("by name", "default", 1, None, 1, none),
        ("t", "q", 1, None, 1, none),
        ("t", "q", 3, None, 3, none),
        ("t", "q", 2, None, 2, none),
        ("t", "q", 1, None, 1, none),
        ("t", "q", 1, None, 1, none),
        ("t", "q", 1, "s", 1, none),
        ("t", "q", 1, "s", 1, none),
    ]
    headers = [row[0] for row in conn.execute("select headers from pgqueue.job_live order by id")]
    assert [h["count"] for h in headers] == ["1", "1", "1", "3", "3", "3", "2", "1", "1", "1", "1"]
    assert [h["from"] for h in headers] == ["caller"] + ["hook"] * 10


def test_a_hook_around_enqueueing_gets_the_error(app: App, conn: Conn) -> None:
    errors: list[BaseException | None] = []
    app.around_enqueue(lambda call: errors.append)

    @app.task(name="t", unique=Unique(on_conflict="raise"))
    def t() -> None: ...

    t.using(conn).enqueue()
    with pytest.raises(DuplicateJob) as raised:
        t.using(conn).enqueue()
    assert errors == [None, raised.value]


def test_hooks_end_in_the_opposite_order_of_their_beginning() -> None:
    """So that what one opens around another is closed around it: a span outside, a scope inside."""
    attempts, calls = AttemptHooks(), EnqueueHooks()
    told: list[str] = []
    for name in ("outer", "inner"):
        attempts.add(lambda _, name=name: lambda _: told.append(name))  # type: ignore[misc]
        calls.add(lambda _, name=name: lambda _: told.append(name))  # type: ignore[misc]
    attempts.begin(context()).close(Succeeded(None), None)
    assert told == ["inner", "outer"]
    with calls.around(new_job()):
        told.clear()
    assert told == ["inner", "outer"]
