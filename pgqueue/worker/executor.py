"""Running one job: a claimed job goes in, an outcome comes out. Nothing a task does gets past it."""

import asyncio
import contextvars
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pgqueue.app import Middleware
from pgqueue.context import Context, Signals
from pgqueue.job import ClaimedJob
from pgqueue.logs import current
from pgqueue.outcome import (
    ErrorInfo,
    Outcome,
    Raised,
    Succeeded,
    TimedOut,
    UnknownHere,
)
from pgqueue.tasks import Tasks, TaskSpec, encode_result
from pgqueue.worker.calling import caught, caught_async, outcome_of
from pgqueue.worker.children import Children

log = logging.getLogger("pgqueue.worker")


class Executor:
    """Runs async tasks on the event loop, others in threads, and those that ask for it in child processes."""

    def __init__(self, tasks: Tasks, slots: int, children: Children, middlewares: Sequence[Middleware] = ()) -> None:
        self._tasks = tasks
        self._children = children
        self._middlewares = middlewares
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="pgqueue-job")

    async def run(self, job: ClaimedJob, signals: Signals) -> Outcome:
        """Run a job to its end. Raises CancelledError if the worker cancels it, PgqueueError if it cannot begin."""
        spec = self._tasks.get(job.task)
        if spec is None:
            return UnknownHere()
        if spec.soft_limit is not None:
            signals.deadline = signals.now() + spec.soft_limit
        context = Context.of(job, signals)
        current.set(context)
        attempt = functools.partial(self._attempt, spec, job, context, signals)
        return await _wrapped(attempt, context, self._middlewares) if self._middlewares else await attempt()

    async def _attempt(self, spec: TaskSpec, job: ClaimedJob, context: Context, signals: Signals) -> Outcome:
        if spec.isolation == "process":
            return await self._children.run(job, spec.timeout, signals)  # not even the arguments are read here
        try:
            arguments = spec.decode(job.args)
        except BaseException as error:  # noqa: BLE001 - a user's own validators may raise anything
            return Raised(ErrorInfo.of(error), permanent=True, reason="invalid arguments")
        call = functools.partial(spec.call, arguments, context)
        value, raised = await (_timed(call, spec.timeout) if spec.is_async else self._in_thread(call))
        if raised is not None:
            return outcome_of(spec, raised)
        return Succeeded(*encode_result(value))

    async def _in_thread(self, call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        value, error = await loop.run_in_executor(self._threads, context.run, caught, call)
        if inspect.isawaitable(value):  # a def that hands on the coroutine of an async one
            return await caught_async(lambda: value)
        return value, error

    def close(self) -> None:
        """Let go of the threads. One that still runs a task is left behind."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _wrapped(
    attempt: Callable[[], Awaitable[Outcome]], context: Context, middlewares: Sequence[Middleware]
) -> Outcome:
    """Run an attempt inside the app's middlewares. Its outcome stands, whatever they raise or leave out."""
    outcome: Outcome | None = None

    async def once() -> Outcome:
        nonlocal outcome
        outcome = outcome or await attempt()
        return outcome

    async def around(middleware: Middleware, inner: Callable[[], Awaitable[Outcome]]) -> Outcome:
        try:
            await middleware(context, inner)
        except Exception as error:
            log.error("job %d: a middleware raised %s", context.job_id, type(error).__name__, exc_info=error)
        return await once()

    call = once
    for middleware in reversed(middlewares):
        call = functools.partial(around, middleware, call)
    return await call()


async def _timed(call: Callable[[], Awaitable[Any]], timeout: float | None) -> tuple[Any, BaseException | None]:
    # What the task raises comes back as a value, so that its own TimeoutError is not taken for ours.
    if timeout is None:
        return await caught_async(call)
    try:
        async with asyncio.timeout(timeout):
            return await caught_async(call)
    except TimeoutError:
        return None, TimedOut(f"ran longer than its timeout of {timeout:g} s and was cancelled")
