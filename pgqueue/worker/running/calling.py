"""Calling a task, on the event loop, in a thread or in a child: its value or error becomes an outcome."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from pgqueue.error_info import ErrorInfo
from pgqueue.errors import CallFailed, CannotOpen, StepMismatch, UnknownKey
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.outcome import (
    RETURNED_NONE,
    AskedCancel,
    AskedFail,
    AskedRateLimited,
    AskedRetry,
    AskedSnooze,
    AskedToWait,
    KeyMissing,
    Outcome,
    Raised,
    Replaced,
    Succeeded,
    UnknownHere,
)
from pgqueue.jobs.verdicts import Asleep, Cancel, Fail, RateLimited, Retry, Snooze, SoftTimeout, TimedOut
from pgqueue.tasks.sealing import STAND_IN_CANCELLED
from pgqueue.tasks.spec import TaskSpec
from pgqueue.tasks.stand_in import StandIn, StandInEnded
from pgqueue.tasks.versions import NewerVersion, UnknownParameters, version_of


def caught(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Call a function; return its value and the error that it raised, whatever that is.

    A future refuses StopIteration, and a SystemExit would end the thread.
    """
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 - any error is the outcome of the attempt
        return None, error


async def caught_async(call: Callable[[], Awaitable[Any]]) -> tuple[Any, BaseException | None]:
    """Call and await; return the value and the error. Raises only a cancellation that the worker asked for."""
    try:
        return await call(), None
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # otherwise the task raised it by itself
        return None, error
    except BaseException as error:  # noqa: BLE001 - also SystemExit ends the attempt, and not the worker
        return None, error


async def limited(call: Callable[[], Awaitable[Any]], limit: float | None) -> tuple[Any, BaseException | None]:
    """Call and await, as `caught_async` does; what is awaited is cancelled once, when its soft limit has passed. What
    it then returns or raises itself stays."""
    try:
        async with asyncio.timeout(limit):
            return await caught_async(call)
    except TimeoutError:
        return None, SoftTimeout(passed(limit))


def passed(limit: float | None) -> str:
    """Return the message of a soft limit."""
    return f"the soft limit of {limit:g} s has passed"


def arguments_of(spec: TaskSpec, job: ClaimedJob) -> dict[str, Any] | Outcome:
    """Return the arguments to call a task with, or the outcome if they cannot be read, or if it is not called again."""
    try:
        return spec.arguments(job)
    except StandInEnded as end:
        return _outcome_of_stand_in(spec, end)
    except UnknownParameters as error:
        return UnknownHere(str(error), error.label)
    except NewerVersion:
        return UnknownHere("newer version of the task")
    except UnknownKey as error:
        return KeyMissing(ErrorInfo.of(error))
    except CannotOpen as error:
        return Raised(ErrorInfo.of(error), reason="cannot be opened")
    except BaseException as error:  # noqa: BLE001 - a user's own validators and upcasters may raise anything
        return Raised(ErrorInfo.of(error), permanent=True, reason="invalid arguments")


def unknown_task(job: ClaimedJob) -> Outcome:
    """Return the outcome of a job whose task is unknown here: it waits, unless no worker can ever know its version."""
    try:
        version_of(job.headers)
    except BaseException as error:  # noqa: BLE001 - headers of SQL may be nested beyond what Python reads
        return Raised(ErrorInfo.of(error), permanent=True, reason="invalid version")
    return UnknownHere()


def outcome_of_value(spec: TaskSpec, value: object) -> Outcome:
    """Return the outcome of a task that returned `value`: it has succeeded, unless others are to run in its place."""
    if isinstance(value, StandIn):
        if value.graph is not None:
            return Replaced(value.graph)
        value = value.result
    return RETURNED_NONE if value is None or not spec.store_result else Succeeded(*spec.encode_result(value))


def _outcome_of_stand_in(spec: TaskSpec, end: StandInEnded) -> Outcome:
    """Return the outcome of a job for which others stood in: theirs."""
    match end.state:
        case "succeeded":
            return outcome_of_value(spec, end.value)
        case "cancelled":
            return AskedCancel(STAND_IN_CANCELLED)
        case _:
            error = ErrorInfo("pgqueue.StandInFailed", "a job that ran in its place has failed")
            return Raised(error, permanent=True, reason="stand-in failed")


def outcome_of_error(spec: TaskSpec, error: BaseException) -> Outcome:
    """Return the outcome of a task that raised an error or a verdict, also several of them in an exception group.

    In a group the gravest decides: Cancel, Fail, StepMismatch, an error of `no_retry_on`, Retry, an error of
    `retry_on`, any other.
    """
    match error:
        case BaseExceptionGroup():
            return _outcome_of_group(spec, error, list(_leaves(error)))
        case Retry(delay=float() | None as delay):
            return AskedRetry(delay, ErrorInfo.of(error.__cause__ or error))
        case RateLimited(delay=float() as delay):
            return AskedRateLimited(delay, spec.limit_meant(error.limit))
        case Snooze(delay=float() as delay):
            return AskedSnooze(delay, ErrorInfo.of(error).message)
        case Asleep():
            wakening = error.wakes.wakening
            return AskedToWait(wakening.at, wakening.left)
        case StepMismatch():
            return Raised(ErrorInfo.of(error), permanent=True, reason="step mismatch")
        case CallFailed():
            return Raised(ErrorInfo.of(error), permanent=True, reason="call failed")
        case Fail():
            return AskedFail(ErrorInfo.of(error))
        case Cancel():
            return AskedCancel(ErrorInfo.of(error).message)
        case TimedOut():
            permanent = isinstance(error, spec.no_retry_on)
            return Raised(ErrorInfo.of(error), permanent=permanent, reason=_reason_of_limit([error]))
        case _:
            again = spec.retries(error)
            return Raised(ErrorInfo.of(error), permanent=not again, reason="error" if again else "not retried")


def _outcome_of_group(spec: TaskSpec, group: BaseExceptionGroup[BaseException], parts: list[BaseException]) -> Outcome:
    for verdict in (Cancel, Fail, StepMismatch, CallFailed):
        if (found := _first(parts, verdict)) is not None:
            return outcome_of_error(spec, found)
    if isinstance(group, spec.no_retry_on) or _first(parts, spec.no_retry_on) is not None:
        return Raised(ErrorInfo.of(group), permanent=True, reason="not retried")
    if (found := _first(parts, Retry)) is not None:
        return outcome_of_error(spec, found)
    if all(isinstance(part, Asleep) for part in parts):
        return outcome_of_error(spec, parts[0])
    if all(isinstance(part, Snooze) for part in parts):
        return outcome_of_error(spec, _first(parts, RateLimited) or parts[0])
    again = spec.retries(group) or _first(parts, spec.retry_on) is not None
    limits = [part for part in parts if isinstance(part, TimedOut)]
    return Raised(
        ErrorInfo.of(group),
        permanent=not (again or limits),
        reason=_reason_of_limit(limits) if limits else "error" if again else "not retried",
    )


def _reason_of_limit(limits: Sequence[TimedOut]) -> str:
    """Return why an attempt ended whose time was over. Soft limits are counted apart."""
    return "soft timeout" if all(isinstance(limit, SoftTimeout) for limit in limits) else "timeout"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def _first(
    errors: Iterable[BaseException], kind: type[BaseException] | tuple[type[BaseException], ...]
) -> BaseException | None:
    return next((error for error in errors if isinstance(error, kind)), None)
