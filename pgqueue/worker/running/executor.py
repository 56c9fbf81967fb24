"""Running one job: a claimed job goes in, an outcome comes out. Nothing a task does gets past it."""

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pgqueue.app import Middleware
from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.outcome import Outcome, Raised, UnknownHere
from pgqueue.jobs.verdicts import TimedOut
from pgqueue.process.logs import current
from pgqueue.tasks.context import Context, Signals
from pgqueue.tasks.registry import Tasks
from pgqueue.tasks.spec import TaskSpec
from pgqueue.worker.running.calling import arguments_of, caught, caught_async, outcome_of, returned
from pgqueue.worker.running.children import Children
from pgqueue.worker.running.threads import Result, Threads

log = logging.getLogger("pgqueue.worker")


@dataclass(frozen=True, slots=True)
class Left:
    """What a def returned that still has to be awaited: the coroutine of an async one, most likely."""

    awaitable: Awaitable[Any]


class Executor:
    """Runs async tasks on the event loop, others in threads, and those that ask for it in child processes."""

    def __init__(
        self,
        tasks: Tasks,
        slots: int,
        children: Children,
        middlewares: Sequence[Middleware] = (),
        threads: Threads | None = None,
    ) -> None:
        self._tasks = tasks
        self._children = children
        self._middlewares = middlewares
        self._threads = threads or Threads(slots)
        self._clean = contextvars.copy_context()

    def start(self, job: ClaimedJob, signals: Signals, tell: Callable[[Outcome | Left], None]) -> bool:
        """Run a job in a thread and tell its outcome, or what is left to `finish`. False for one that must be `run`.

        Cheaper than a coroutine that waits for the thread.
        """
        spec = self._tasks.get(job.task)
        if spec is None or spec.is_async or spec.isolation == "process" or self._middlewares:
            return False
        _limit(spec, signals)
        call = partial(_in_thread, spec, job, Context(job, signals))
        self._threads.submit(call, self._clean.copy(), lambda result: tell(_told(result)))
        return True

    async def run(self, job: ClaimedJob, signals: Signals) -> Outcome:
        """Run a job to its end. Raises CancelledError if the worker cancels it, PgqueueError if it cannot begin."""
        spec = self._tasks.get(job.task)
        if spec is None:
            return UnknownHere()
        _limit(spec, signals)
        context = Context(job, signals)
        token = current.set(context)
        try:
            if not self._middlewares:
                return await self._attempt(spec, job, context, signals)
            return await _wrapped(partial(self._attempt, spec, job, context, signals), context, self._middlewares)
        finally:
            current.reset(token)

    def _attempt(self, spec: TaskSpec, job: ClaimedJob, context: Context, signals: Signals) -> Awaitable[Outcome]:
        if spec.isolation == "process":
            return self._children.run(job, spec.timeout, signals)  # not even the arguments are read here
        if spec.is_async:
            return _on_loop(spec, job, context)
        return self._threaded(spec, job, context)

    async def _threaded(self, spec: TaskSpec, job: ClaimedJob, context: Context) -> Outcome:
        outcome = _told(await self._threads.run(partial(_in_thread, spec, job, context)))
        return await self.finish(job, outcome) if isinstance(outcome, Left) else outcome

    async def finish(self, job: ClaimedJob, left: Left) -> Outcome:
        """Await what a def returned."""
        spec = self._tasks[job.task]
        value, error = await caught_async(lambda: left.awaitable)
        return returned(spec, value) if error is None else outcome_of(spec, error)

    def close(self) -> None:
        """Let go of the threads. One that still runs a task is left behind."""
        self._threads.close()


def _limit(spec: TaskSpec, signals: Signals) -> None:
    limit = spec.soft_limit
    if limit is not None:
        signals.deadline = signals.now() + limit


async def _on_loop(spec: TaskSpec, job: ClaimedJob, context: Context) -> Outcome:
    arguments = arguments_of(spec, job)
    if not isinstance(arguments, dict):
        return arguments
    call = partial(spec.call, arguments, context)
    value, error = await (caught_async(call) if spec.timeout is None else _timed(call, spec.timeout))
    return returned(spec, value) if error is None else outcome_of(spec, error)


def _in_thread(spec: TaskSpec, job: ClaimedJob, context: Context) -> Outcome | Left:
    current.set(context)
    arguments = arguments_of(spec, job)
    if not isinstance(arguments, dict):
        return arguments
    value, error = caught(partial(spec.call, arguments, context))
    if error is not None:
        return outcome_of(spec, error)
    return Left(value) if value is not None and inspect.isawaitable(value) else returned(spec, value)


def _told(result: Result) -> Outcome | Left:
    outcome: Outcome | Left = result[0]
    return outcome if result[1] is None else Raised(ErrorInfo.of(result[1]))


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
        call = partial(around, middleware, call)
    return await call()


async def _timed(call: Callable[[], Awaitable[Any]], timeout: float) -> tuple[Any, BaseException | None]:
    # What the task raises comes back as a value, so that its own TimeoutError is not taken for ours.
    try:
        async with asyncio.timeout(timeout):
            return await caught_async(call)
    except TimeoutError:
        return None, TimedOut(f"ran longer than its timeout of {timeout:g} s and was cancelled")
