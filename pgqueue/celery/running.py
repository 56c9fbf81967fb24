"""The run of a task: its request, signals and handlers, and what its error means for the job."""

import random
import signal as process_signals
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Token
from types import FrameType
from typing import Any, Protocol

from pgqueue.app import App
from pgqueue.celery import signals, states
from pgqueue.celery.exceptions import Ignore, Reject, Replaced, Retry, SoftTimeLimitExceeded, known_error
from pgqueue.celery.options import TASK_ID
from pgqueue.celery.request import ERRBACK, Request, current_request
from pgqueue.celery.values import read, written
from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import Job, JobState
from pgqueue.jobs.verdicts import Asleep, Verdict
from pgqueue.tasks.call_shape import POSITIONAL, CallShape
from pgqueue.tasks.context import Context


class Runs(Protocol):
    """A task of the adapter as its run sees it."""

    name: str
    pydantic: bool
    ignore_result: bool | None
    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    soft_time_limit: float | None

    @property
    def shape(self) -> CallShape: ...
    @property
    def app(self) -> Any: ...
    @property
    def is_async(self) -> bool: ...

    @property
    def body(self) -> Callable[..., Any]: ...
    @property
    def retry(self) -> Callable[..., Any]: ...
    @property
    def before_start(self) -> Callable[..., Any]: ...
    @property
    def on_success(self) -> Callable[..., Any]: ...
    @property
    def on_failure(self) -> Callable[..., Any]: ...
    @property
    def on_retry(self) -> Callable[..., Any]: ...
    @property
    def after_return(self) -> Callable[..., Any]: ...


class ExceptionInfo:
    """An exception with its traceback as text: the `einfo` of handlers and signals."""

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception
        self.type = type(exception)
        self.tb = exception.__traceback__
        self.traceback = "".join(traceback.format_exception(exception))

    def __str__(self) -> str:
        return self.traceback


def perform(task: Runs, context: Context, stored: Mapping[str, Any]) -> Any:
    """Run a task for a job. Returns its result as it is stored; raises its error, or a verdict on the job."""
    run = Run.of_job(task, context, stored)
    try:
        with _soft_limit(task):
            value = task.body(*run.request.args, **run.request.kwargs)
    except BaseException as error:  # noqa: BLE001 - raised again by `raised`, or a verdict in its place
        return run.raised(error)
    return run.returned(value)


async def perform_async(task: Runs, context: Context, stored: Mapping[str, Any]) -> Any:
    """The async twin of `perform`, for an `async def`."""
    run = Run.of_job(task, context, stored)
    try:
        made: Awaitable[Any] = task.body(*run.request.args, **run.request.kwargs)
        value = await made
    except BaseException as error:  # noqa: BLE001 - as above
        return run.raised(error)
    return run.returned(value)


class Run:
    """One run of a task: its beginning and its end, of which signals and handlers hear."""

    def __init__(self, task: Runs, request: Request) -> None:
        self.task, self.request = task, request
        self._token: Token[Request | None] = current_request.set(request)
        self._named = {"task_id": request.id, "args": request.args, "kwargs": request.kwargs}
        _guarded(task.before_start, request.id, request.args, request.kwargs)
        signals.task_prerun.send(task, task=task, **self._named)

    @classmethod
    def of_job(cls, task: Runs, context: Context, stored: Mapping[str, Any]) -> "Run":
        """Begin the run of a job."""
        values = stored if task.pydantic else {name: read(value) for name, value in stored.items()}
        args, kwargs = task.shape.given(values, context.header(POSITIONAL))
        if context.header(ERRBACK):
            args, kwargs = _of_failure(task, context, args, kwargs)
        return cls(task, Request.of_job(context, args, kwargs))

    def returned(self, value: Any) -> Any:
        """Tell of the success; return the value as it is stored. Raises the Retry that the task has asked for without
        raising it, and TypeError for a value that is no JSON."""
        if self.request.asked_retry is not None:
            return self.raised(self.request.asked_retry)
        stored = value
        if not (self.task.pydantic or self.task.ignore_result):
            try:
                stored = written(value, "result")
            except TypeError as error:
                return self.raised(error)
        signals.task_success.send(self.task, result=value)
        _guarded(self.task.on_success, value, self.request.id, self.request.args, self.request.kwargs)
        self._end(states.SUCCESS, value)
        return stored

    def raised(self, error: BaseException) -> Any:
        """Tell of the error; raise what it means for the job. Returns what runs in the place of the job."""
        error = self._after_autoretry(error)
        if isinstance(error, Replaced):
            self._end(states.IGNORED, None)
            return error.stand_in
        if isinstance(error, Retry):
            self._tell_of_retry(error)
        elif isinstance(error, (Ignore, Reject)):
            self._end(states.IGNORED if isinstance(error, Ignore) else states.REJECTED, error)
        elif isinstance(error, (Verdict, Asleep)) or not isinstance(error, (Exception, SystemExit)):
            self._end(states.RETRY, error)
        else:
            self._tell_of_failure(error)
        if isinstance(error, Reject):
            raise error.verdict() from error
        raise error

    def _after_autoretry(self, error: BaseException) -> BaseException:
        """Return the Retry that `autoretry_for` makes of an error, or the error where it makes none."""
        task = self.task
        if isinstance(error, Verdict) or not isinstance(error, task.autoretry_for):
            return error
        if isinstance(error, task.dont_autoretry_for):
            return error
        asked = dict(task.retry_kwargs)
        if task.retry_backoff:
            asked["countdown"] = backoff(task, self.request.retries)
        try:
            task.retry(exc=error, **asked)
        except BaseException as verdict:  # noqa: BLE001 - a Retry, or the error where no retry is left
            return verdict
        return error

    def _tell_of_retry(self, error: Retry) -> None:
        cause = ExceptionInfo(error.__cause__ or error)
        signals.task_retry.send(self.task, request=self.request, reason=error, einfo=cause)
        exc = error.exc or error
        _guarded(self.task.on_retry, exc, self.request.id, self.request.args, self.request.kwargs, cause)
        self._end(states.RETRY, error)

    def _tell_of_failure(self, error: BaseException) -> None:
        info = ExceptionInfo(error)
        signals.task_failure.send(self.task, exception=error, traceback=info.tb, einfo=info, **self._named)
        _guarded(self.task.on_failure, error, self.request.id, self.request.args, self.request.kwargs, info)
        self._end(states.FAILURE, error)

    def _end(self, state: str, value: Any) -> None:
        request = self.request
        info = ExceptionInfo(value) if isinstance(value, BaseException) else None
        _guarded(self.task.after_return, state, value, request.id, request.args, request.kwargs, info)
        signals.task_postrun.send(self.task, task=self.task, retval=value, state=state, **self._named)
        current_request.reset(self._token)


def backoff(task: Runs, retries: int) -> float:
    """Return the seconds to wait after so many retries: doubled each time, with full jitter unless that is off."""
    exact = min(task.retry_backoff_max, max(1.0, float(task.retry_backoff)) * 2.0 ** min(retries, 64))
    return random.uniform(0.0, exact) if task.retry_jitter else exact  # noqa: S311 - no secret


def _of_failure(
    task: Runs, context: Context, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of an errback. Its first one is how what it belongs to has ended; of several jobs, a
    list."""
    outcomes = args[0] if isinstance(args[0], list) else [args[0]]
    outcome = next((each for each in outcomes if each["state"] == "failed"), outcomes[0])
    failed = failed_job(task.app.pgqueue, context, outcome)
    task_id = failed.headers.get(TASK_ID) or str(failed.id)
    if context.header(ERRBACK) != "3":
        return (task_id, *args[1:]), kwargs
    named = (*task.app.tasks[failed.task].throws,) if failed.task in task.app.tasks else ()
    info = failed.errors[-1] if failed.errors else ErrorInfo("pgqueue.JobFailed", failed.reason or "", None)
    request = Request(task=failed.task, id=task_id, called_directly=False)
    return (request, known_error(info, named), info.traceback, *args[3:]), kwargs


def failed_job(app: App, context: Context, outcome: Mapping[str, Any]) -> Job:
    """Return the job for whose failure an errback runs: that of its workflow with the same error."""
    own = app.get(context.job_id)
    members = () if own.workflow_id is None else app.workflows.jobs(own.workflow_id)
    dead = [app.get(each.id) for each in members if each.state == JobState.FAILED]
    if not dead:
        return own
    wanted = (outcome["error"] or {}).get("message")
    return next((job for job in dead if job.errors and job.errors[-1].message == wanted), dead[0])


class InChild:
    """Whether this process is a child that runs one job at a time in its main thread."""

    here = False


@contextmanager
def _soft_limit(task: Runs) -> Iterator[None]:
    """Raise SoftTimeLimitExceeded in the task when its soft limit has passed. Only a child's main thread can be
    told."""
    limit = task.soft_time_limit
    if limit is None or not InChild.here or threading.current_thread() is not threading.main_thread():
        yield
        return

    def passed(number: int, frame: FrameType | None) -> None:
        raise SoftTimeLimitExceeded(f"the soft limit of {limit:g} s has passed")

    before = process_signals.signal(process_signals.SIGALRM, passed)
    process_signals.setitimer(process_signals.ITIMER_REAL, limit)
    try:
        yield
    finally:
        process_signals.setitimer(process_signals.ITIMER_REAL, 0)
        process_signals.signal(process_signals.SIGALRM, before)


def _guarded(handler: Callable[..., Any], *args: Any) -> None:
    """Call a handler of the user's. Its error is logged and changes nothing."""
    try:
        handler(*args)
    except Exception as error:  # noqa: BLE001 - the outcome of the task stands
        signals.log.error(
            "%s raised %s", getattr(handler, "__qualname__", handler), type(error).__name__, exc_info=error
        )
