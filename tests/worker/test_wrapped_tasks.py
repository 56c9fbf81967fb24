"""The outermost decorator decides how a task is called; a coroutine that a `def` returns runs on the event loop."""

import asyncio
import functools
import gc
import threading
import warnings
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async

from pgqueue import App, Context
from pgqueue.tasks.context import current_context
from pgqueue.tasks.spec import ThreadTimeoutWarning
from tests.conftest import eventually, scalar, work
from tests.harness import working

Conn = psycopg.Connection[Any]


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def blocking(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a plain function of an async one."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return call


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function, and return what it returns: of an async one, the coroutine."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def awaiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make an async function of a plain one."""

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


async def on_a_loop(n: int) -> list[Any]:
    await asyncio.sleep(0)
    context = current_context.get()
    return [n, threading.current_thread() is threading.main_thread(), context is not None and context.task]


def plain(n: int) -> list[Any]:
    context = current_context.get()
    return [n, threading.current_thread() is threading.main_thread(), context is not None and context.task]


@pytest.mark.parametrize("middleware", [False, True], ids=["alone", "with middleware"])
@pytest.mark.parametrize(
    ("function", "in_main_thread"),
    [
        (blocking(on_a_loop), False), (async_to_sync(on_a_loop), False), (blocking(passing(on_a_loop)), False),
        (passing(on_a_loop), True), (passing(passing(on_a_loop)), True), (functools.partial(on_a_loop), True),
        (awaiting(plain), True), (passing(plain), False),
        (sync_to_async(plain), False),
    ],
    ids=["blocking", "async_to_sync", "blocking passing", "passing", "passing twice", "partial", "awaiting",
         "passing plain", "sync_to_async"],
)  # fmt: skip
def test_each_way_of_wrapping_runs_as_python_would_run_it(
    app: App, conn: Conn, function: Callable[..., Any], in_main_thread: bool, middleware: bool
) -> None:
    if middleware:

        @app.middleware
        async def around(_: object, inner: Callable[[], Any]) -> None:
            await inner()

    job = app.task(name="task", max_attempts=1)(function).enqueue(n=7)
    asyncio.run(work(app, lambda: scalar(conn, "select state in ('succeeded', 'failed') from pgqueue.job")))
    assert app.get(job.id).result == [7, in_main_thread, "task"]


def test_an_async_to_sync_object_has_the_name_and_the_signature_of_its_function(app: App) -> None:
    spec = app.task(async_to_sync(on_a_loop)).spec
    assert spec.name == "tests.worker.test_wrapped_tasks.on_a_loop"
    assert str(spec.coder.signature) == "(n: int)"


def test_the_coroutine_that_a_def_returns_has_the_tasks_timeout(app: App, conn: Conn) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ThreadTimeoutWarning)

        @app.task(max_attempts=1, timeout=0.05)
        @passing
        async def endless() -> None:
            await asyncio.Event().wait()

    job = endless.enqueue()
    asyncio.run(work(app, lambda: scalar(conn, "select state = 'failed' from pgqueue.job")))
    assert app.get(job.id).errors[0].type == "pgqueue.TimedOut"


@pytest.mark.parametrize("cut_off", [False, True], ids=["cancelled", "cut off"])
def test_the_coroutine_that_a_def_returns_can_be_cancelled(app: App, conn: Conn, cut_off: bool) -> None:
    began = threading.Event()

    @app.task
    @passing
    async def endless() -> None:
        began.set()
        await asyncio.Event().wait()

    job = endless.enqueue()

    async def scenario() -> None:
        async with working(app, poll_seconds=0.1, shutdown_timeout=0.0):
            await eventually(began.is_set, "it to run")
            if not cut_off:
                await app.acancel(job.id)
                await eventually(lambda: scalar(conn, "select state = 'cancelled' from pgqueue.job"), "its end")

    asyncio.run(scenario())
    state = scalar(conn, "select array[state, attempt::text] from pgqueue.job")
    assert state == (["pending", "0"] if cut_off else ["cancelled", "1"])


def test_a_coroutine_that_is_cancelled_before_its_first_step_ends_its_job(app: App, conn: Conn) -> None:
    """Nothing of an asyncio task that is cancelled so early is executed, not even its `finally`."""
    called = threading.Event()

    @app.task
    def slow(ctx: Context) -> Any:
        called.set()
        while not ctx.cancelled:
            threading.Event().wait(0.01)
        return asyncio.Event().wait()

    @app.task
    async def another() -> None: ...

    job = slow.enqueue()

    async def scenario() -> None:
        async with working(app, concurrency=1, poll_seconds=0.1):
            await eventually(called.is_set, "it to run")
            await app.acancel(job.id)
            await eventually(lambda: scalar(conn, "select state = 'cancelled' from pgqueue.job"), "its end")
            await another.aenqueue()
            done = "select state = 'succeeded' from pgqueue.job order by id desc limit 1"
            await eventually(lambda: scalar(conn, done), "the slot to be free")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the coroutine was never awaited
        asyncio.run(scenario())
        gc.collect()  # else it is collected, and Python warns of it, after the last test
