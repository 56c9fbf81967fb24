"""Calling a task, wherever it runs: nothing it raises gets past, and what it raised becomes an outcome."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pgqueue.error_info import ErrorInfo
from pgqueue.errors import CannotOpen, UnknownKey
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.outcome import (
    DONE,
    AskedRetry,
    Outcome,
    Raised,
    Rejected,
    Snoozed,
    Succeeded,
    UnknownHere,
    Unreadable,
    Withdrawn,
)
from pgqueue.jobs.verdicts import Cancel, Fail, Retry, Snooze, TimedOut
from pgqueue.tasks.spec import TaskSpec
from pgqueue.tasks.versions import NewerVersion


def caught(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Call a function; what it raises comes back as a value.

    A future refuses StopIteration, and a SystemExit would end the thread.
    """
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 - the outcome of the attempt, whatever it is
        return None, error


async def caught_async(call: Callable[[], Awaitable[Any]]) -> tuple[Any, BaseException | None]:
    """Call and await; what it raises comes back as a value, but for a cancellation that came from outside."""
    try:
        return await call(), None
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # the worker asked for it; otherwise the task raised it by itself
        return None, error
    except BaseException as error:  # noqa: BLE001 - SystemExit and its like end the attempt, not the worker
        return None, error


def arguments_of(spec: TaskSpec, job: ClaimedJob) -> dict[str, Any] | Outcome:
    """Return what to call a task with, or what becomes of a job whose arguments cannot be had."""
    try:
        return spec.arguments(job)
    except NewerVersion:
        return UnknownHere("newer version of the task")
    except UnknownKey as error:
        return Unreadable(ErrorInfo.of(error))
    except CannotOpen as error:
        return Raised(ErrorInfo.of(error), reason="cannot be opened")
    except BaseException as error:  # noqa: BLE001 - a user's own validators and upcasters may raise anything
        return Raised(ErrorInfo.of(error), permanent=True, reason="invalid arguments")


def returned(spec: TaskSpec, value: object) -> Outcome:
    """Return what the value a task returned means for the attempt: it has succeeded."""
    return DONE if value is None or not spec.store_result else Succeeded(*spec.encode_result(value))


def outcome_of(spec: TaskSpec, error: BaseException) -> Outcome:
    """Return what an error, or a verdict, means for the attempt."""
    match error:
        case Retry(delay=float() | None as delay):
            return AskedRetry(delay, ErrorInfo.of(error.__cause__ or error))
        case Snooze(delay=float() as delay):
            return Snoozed(delay, ErrorInfo.of(error).message)
        case Fail():
            return Rejected(ErrorInfo.of(error))
        case Cancel():
            return Withdrawn(ErrorInfo.of(error).message)
        case TimedOut():
            return Raised(ErrorInfo.of(error), permanent=isinstance(error, spec.no_retry_on), reason="timeout")
        case _:
            again = spec.retries(error)
            return Raised(ErrorInfo.of(error), permanent=not again, reason="error" if again else "not retried")
