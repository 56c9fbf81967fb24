"""Running a task where it is called: `task.apply`, and every call while `task_always_eager` is set."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pgqueue.celery import states
from pgqueue.celery.exceptions import Ignore, Reject, Retry
from pgqueue.celery.request import Request
from pgqueue.celery.result import EagerResult
from pgqueue.celery.running import ExceptionInfo, Run, Runs
from pgqueue.errors import InvalidOption

_MOST_RETRIES = 1000  # of a task that retries for ever: a call that never returns helps nobody


def apply_eagerly(
    task: Runs, args: Sequence[Any], kwargs: Mapping[str, Any], task_id: str | None, *, throw: bool
) -> EagerResult[Any]:
    """Run a task, and its retries one after the other without their delays; return its result. `throw`: raise its
    error.

    Raises InvalidOption for an `async def`, which a worker runs.
    """
    if task.is_async:
        raise InvalidOption(f"task {task.name} is an async def: await it, or let pgqueue.testing run its job")
    chosen = task_id or str(uuid.uuid4())
    for retries in range(_MOST_RETRIES):
        request = Request(
            task=task.name,
            id=chosen,
            args=tuple(args),
            kwargs=dict(kwargs),
            retries=retries,
            root_id=chosen,
            delivery_info={"is_eager": True, "exchange": None, "routing_key": None},
            is_eager=True,
            called_directly=False,
            calls_body=True,
        )
        result = _once(task, request)
        if result.state != states.RETRY:
            break
    if throw and isinstance(result.result, BaseException) and result.state in states.PROPAGATE_STATES:
        raise result.result
    return result


def _once(task: Runs, request: Request) -> EagerResult[Any]:
    run, name, task_id = Run(task, request), task.name, request.id or ""
    value: Any = None
    try:
        value = task.body(*request.args, **request.kwargs)
    except Exception as error:  # noqa: BLE001 - it is the result
        return _of_error(run, error, name, task_id)
    try:
        run.returned(value)
    except Exception as error:  # noqa: BLE001 - a retry that was asked for, or a value that is no JSON
        return _result_of(error, name, task_id)
    return EagerResult(name, task_id, states.SUCCESS, value)


def _of_error(run: Run, error: BaseException, name: str, task_id: str) -> EagerResult[Any]:
    try:
        stand_in = run.raised(error)
    except Exception as meant:  # noqa: BLE001 - it is the result
        return _result_of(meant, name, task_id)
    return EagerResult(name, task_id, states.SUCCESS, stand_in)


def _result_of(error: BaseException, name: str, task_id: str) -> EagerResult[Any]:
    if isinstance(error, Retry):
        state = states.RETRY
    elif isinstance(error, (Ignore, Reject)):
        state = states.REVOKED
    else:
        state = states.FAILURE
    return EagerResult(name, task_id, state, error, ExceptionInfo(error).traceback)
