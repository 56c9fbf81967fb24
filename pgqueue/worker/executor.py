"""Running one job: a claimed job goes in, an outcome comes out. Nothing a task does gets past it."""

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pgqueue.context import Context
from pgqueue.job import ClaimedJob
from pgqueue.outcome import (
    AskedRetry,
    Cancel,
    ErrorInfo,
    Fail,
    Outcome,
    Raised,
    Rejected,
    Retry,
    Snooze,
    Snoozed,
    Succeeded,
    UnknownHere,
    Withdrawn,
    storable,
)
from pgqueue.tasks import Tasks, TaskSpec, encode_result


class Executor:
    """Runs async tasks on the event loop and the others in threads, one thread a slot."""

    def __init__(self, tasks: Tasks, slots: int) -> None:
        self._tasks = tasks
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="pgqueue-job")

    async def run(self, job: ClaimedJob) -> Outcome:
        """Run a job to its end. Raises only CancelledError, when the worker cancels it."""
        spec = self._tasks.get(job.task)
        if spec is None:
            return UnknownHere()
        try:
            arguments = spec.decode(job.args)
        except Exception as error:  # noqa: BLE001 - a user's own validators may raise anything
            return Raised(ErrorInfo.of(error), permanent=True, reason="invalid arguments")
        try:
            value = await self._call(spec, arguments, Context.of(job))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the worker asked for it; otherwise the task raised it by itself
            return _raised(spec, error)
        except BaseException as error:  # noqa: BLE001 - SystemExit and its like end the attempt, not the worker
            return _raised(spec, error)
        result, problem = encode_result(value)
        return Succeeded(result, problem)

    async def _call(self, spec: TaskSpec, arguments: dict[str, Any], context: Context) -> Any:
        if spec.is_async:
            return await spec.call(arguments, context)
        value, error = await asyncio.get_running_loop().run_in_executor(
            self._threads, contextvars.copy_context().run, _caught, spec.call, arguments, context
        )
        if error is not None:
            raise error
        return await value if inspect.isawaitable(value) else value

    def close(self) -> None:
        """Let go of the threads. One that still runs a task is left behind."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _caught(call: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    # As a value, because a future refuses StopIteration and a SystemExit would end the thread.
    try:
        return call(*args), None
    except BaseException as error:  # noqa: BLE001 - carried to the event loop and handled there
        return None, error


def _raised(spec: TaskSpec, error: BaseException) -> Outcome:
    match error:
        case Retry():
            return AskedRetry(error.delay, ErrorInfo.of(error.__cause__ or error))
        case Snooze():
            return Snoozed(error.delay, storable(str(error)))
        case Fail():
            return Rejected(ErrorInfo.of(error))
        case Cancel():
            return Withdrawn(storable(str(error)))
        case _:
            again = spec.retries(error)
            return Raised(ErrorInfo.of(error), permanent=not again, reason="error" if again else "not retried")
