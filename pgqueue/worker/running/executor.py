"""Running one job: a claimed job goes in, an outcome comes out, whatever the task raises."""

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
from pgqueue.jobs.outcome import Outcome, Raised
from pgqueue.jobs.verdicts import TimedOut
from pgqueue.tasks.context import Context, Signals, current_context
from pgqueue.tasks.hooks import AttemptHooks, ObservedAttempt
from pgqueue.tasks.registry import Tasks
from pgqueue.tasks.spec import TaskSpec
from pgqueue.worker.running.calling import (
    arguments_of,
    caught,
    caught_async,
    limited,
    outcome_of_error,
    outcome_of_value,
    unknown_task,
)
from pgqueue.worker.running.children import Children
from pgqueue.worker.running.threads import Result, Threads

log = logging.getLogger("pgqueue.worker")


@dataclass(frozen=True, slots=True)
class Unawaited:
    """The awaitable that a `def` task returned: most likely the coroutine of an `async def`.

    `attempt`: what hooks have begun and its end closes. `context`: the one in which the task was called, if it is free.
    """

    awaitable: Awaitable[Any]
    attempt: ObservedAttempt | None
    context: contextvars.Context | None


class Executor:
    """Runs async tasks on the event loop, tasks with `isolation="process"` in children, and others in threads."""

    def __init__(
        self,
        tasks: Tasks,
        children: Children,
        threads: Threads,
        middlewares: Sequence[Middleware] = (),
        hooks: AttemptHooks | None = None,
    ) -> None:
        self._tasks = tasks
        self._children = children
        self._threads = threads
        self._middlewares = middlewares
        self._hooks = AttemptHooks() if hooks is None else hooks
        self._clean_context = contextvars.copy_context()

    def start(self, job: ClaimedJob, signals: Signals, on_done: Callable[[Outcome | Unawaited], None]) -> bool:
        """Run a job in a thread, if that is where it runs; return False for one to be `run`.

        `on_done` is called with the outcome, or with an awaitable to `finish`. That is cheaper than a coroutine that
        waits for the thread.
        """
        spec = self._tasks.get(job.task)
        if spec is None or spec.is_async or spec.isolation == "process" or self._middlewares:
            return False
        _set_deadline(spec, signals)
        own = self._clean_context.copy()
        call = partial(_in_thread, spec, job, Context(job, signals), self._hooks, own)
        self._threads.submit(call, own, lambda result: on_done(_outcome_of(result)))
        return True

    async def run(self, job: ClaimedJob, signals: Signals) -> Outcome:
        """Run a job to its end. Raises CancelledError if the worker cancels it, PgqueueError if it cannot begin."""
        spec = self._tasks.get(job.task)
        if spec is None:
            return unknown_task(job)
        _set_deadline(spec, signals)
        context = Context(job, signals)
        token = current_context.set(context)
        try:
            if not self._middlewares:
                return await self._attempt(spec, job, context, signals)
            return await _run_wrapped(partial(self._attempt, spec, job, context, signals), context, self._middlewares)
        finally:
            current_context.reset(token)

    def _attempt(self, spec: TaskSpec, job: ClaimedJob, context: Context, signals: Signals) -> Awaitable[Outcome]:
        if spec.isolation == "process":
            return self._children.run(job, spec.timeout, signals)  # not even the arguments are read here
        if spec.is_async:
            return _on_loop(spec, job, context, self._hooks)
        return self._threaded(spec, job, context, signals)

    async def _threaded(self, spec: TaskSpec, job: ClaimedJob, context: Context, signals: Signals) -> Outcome:
        outcome = _outcome_of(await self._threads.run(partial(_in_thread, spec, job, context, self._hooks)))
        return await self.finish(job, signals, outcome) if isinstance(outcome, Unawaited) else outcome

    async def finish(self, job: ClaimedJob, signals: Signals, unawaited: Unawaited) -> Outcome:
        """Await what a `def` task returned, for at most its timeout."""
        spec = self._tasks[job.task]
        signals.awaited = True
        current_context.set(Context(job, signals))

        async def call() -> Any:
            return await unawaited.awaitable

        return await _ended(spec, call, unawaited.attempt)

    def close(self) -> None:
        """End the threads that are idle. One that still runs a task is left behind."""
        self._threads.close()


def _set_deadline(spec: TaskSpec, signals: Signals) -> None:
    limit = spec.soft_limit
    if limit is not None:
        signals.soft = spec.soft_timeout is not None
        signals.deadline = signals.now() + limit


async def _on_loop(spec: TaskSpec, job: ClaimedJob, context: Context, hooks: AttemptHooks) -> Outcome:
    arguments = arguments_of(spec, job)
    if not isinstance(arguments, dict):
        return arguments
    call = partial(spec.call, arguments, context)
    if hooks:
        return await _ended(spec, call, hooks.begin(context))
    value, error = await _called(spec, call)
    return outcome_of_value(spec, value) if error is None else outcome_of_error(spec, error)


async def _ended(spec: TaskSpec, call: Callable[[], Awaitable[Any]], attempt: ObservedAttempt | None) -> Outcome:
    """Await a call to its end, and tell the hooks of it."""
    try:
        value, error = await _called(spec, call)
    except BaseException as cut:
        if attempt is not None:
            attempt.cut_off(cut)
        raise
    outcome = outcome_of_value(spec, value) if error is None else outcome_of_error(spec, error)
    return outcome if attempt is None else attempt.close(outcome, error)


def _in_thread(
    spec: TaskSpec, job: ClaimedJob, context: Context, hooks: AttemptHooks, own: contextvars.Context | None = None
) -> Outcome | Unawaited:
    current_context.set(context)
    arguments = arguments_of(spec, job)
    if not isinstance(arguments, dict):
        return arguments
    attempt = hooks.begin(context) if hooks else None
    value, error = caught(partial(spec.call, arguments, context))
    if value is not None and inspect.isawaitable(value):
        return Unawaited(value, attempt, own)
    outcome = outcome_of_value(spec, value) if error is None else outcome_of_error(spec, error)
    return outcome if attempt is None else attempt.close(outcome, error)


def _outcome_of(result: Result) -> Outcome | Unawaited:
    outcome: Outcome | Unawaited = result[0]
    return outcome if result[1] is None else Raised(ErrorInfo.of(result[1]))


async def _run_wrapped(
    attempt: Callable[[], Awaitable[Outcome]], context: Context, middlewares: Sequence[Middleware]
) -> Outcome:
    """Run an attempt inside the app's middlewares, and return its outcome, whatever they do.

    An error of a middleware is logged. The attempt runs even if no middleware calls it.
    """
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
    try:
        return await call()
    except asyncio.CancelledError:
        if outcome is None:
            raise
        return outcome  # a middleware was cancelled after the task had ended


def _called(spec: TaskSpec, call: Callable[[], Awaitable[Any]]) -> Awaitable[tuple[Any, BaseException | None]]:
    """Call within the limits of the task: the soft one cancels it once, so that it can clean up, the other one ends
    it."""
    if spec.timeout is None:
        return caught_async(call) if spec.soft_timeout is None else limited(call, spec.soft_timeout)
    return _timed(call, spec.timeout, spec.soft_timeout)


async def _timed(
    call: Callable[[], Awaitable[Any]], timeout: float, soft: float | None
) -> tuple[Any, BaseException | None]:
    # `caught_async` returns what the task raises, so that its own TimeoutError is not mistaken for ours.
    try:
        async with asyncio.timeout(timeout):
            return await (caught_async(call) if soft is None else limited(call, soft))
    except TimeoutError:
        return None, TimedOut(f"ran longer than its timeout of {timeout:g} s and was cancelled")
