"""Running a task of Django's as one of pgqueue: with its context, its signals and its rules for results."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone

from pgqueue.app import App
from pgqueue.django.interface import Status, TaskContext, TaskResult, normalize_json, task_finished, task_started
from pgqueue.django.results import error_of, result_of
from pgqueue.django.tenants import TENANT, inside
from pgqueue.error_info import ErrorInfo
from pgqueue.tasks.call_shape import POSITIONAL, CallShape
from pgqueue.tasks.context import Context
from pgqueue.tasks.hooks import name_of
from pgqueue.worker.running.calling import outcome_of_error

CONTEXT = "pgqueue_context"


class NotJson(TypeError):
    """A task has returned what JSON does not have. It has done its work, so it is not tried again."""


@dataclass(frozen=True, kw_only=True)
class PgqueueTaskContext(TaskContext):
    """The context of a task that takes one. `job`: that of its job, for progress, steps, and a transaction that
    completes it: `with context.job.transaction(using="default"):`."""

    job: Context = field(repr=False)


def as_function(alias: str, app: App, task: Any) -> Callable[..., Any]:
    """Return the function that pgqueue registers for a task."""
    run = _Run(alias, app, task)

    def call(**given: Any) -> Any:
        with inside(given[CONTEXT].header(TENANT)):
            result, args = run.begin(given)
            run.send(task_started, result)
            try:
                value = run.checked(task.func(*args, **result.kwargs))
            except (Exception, SystemExit) as error:
                if run.failed(result, given[CONTEXT], error):
                    run.send(task_finished, result)
                raise
            run.send(task_finished, run.succeeded(result, value))
            return value

    async def acall(**given: Any) -> Any:
        result, args = run.begin(given)
        await run.asend(task_started, result)
        try:
            value = run.checked(await task.func(*args, **result.kwargs))
        except (Exception, SystemExit) as error:
            if run.failed(result, given[CONTEXT], error):
                await run.asend(task_finished, result)
            raise
        await run.asend(task_finished, run.succeeded(result, value))
        return value

    function: Callable[..., Any] = acall if inspect.iscoroutinefunction(task.func) else call
    function.__name__, function.__qualname__ = task.func.__name__, task.func.__qualname__
    function.__module__, function.__doc__ = task.func.__module__, task.func.__doc__
    context = inspect.Parameter(CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=Context)
    parameters = [each.replace(kind=each.KEYWORD_ONLY) for each in run.shape.parameters]
    function.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    return function


class _Run:
    """What the runs of one task share."""

    def __init__(self, alias: str, app: App, task: Any) -> None:
        self._alias = alias
        self._app = app
        self._task = task
        self.shape = CallShape.of(task.func, int(task.takes_context))

    def begin(self, given: dict[str, Any]) -> tuple[Any, list[Any]]:
        """Return the result of a job that begins to run, and the arguments by position for the function."""
        ctx: Context = given[CONTEXT]
        stored = {name: value for name, value in given.items() if name != CONTEXT}
        result = self._result(ctx, stored)
        args = list(result.args)
        if self._task.takes_context:
            args.insert(0, PgqueueTaskContext(task_result=result, job=ctx))
        return result, args

    def _result(self, ctx: Context, stored: dict[str, Any]) -> Any:
        if ctx.attempt > 1:  # who ran it before, and how that ended, is in the database alone
            earlier = result_of(self._app.get(ctx.job_id), self._task, self._alias)
            object.__setattr__(earlier, "status", Status.RUNNING)
            return earlier
        args, kwargs = self.shape.given(stored, ctx.header(POSITIONAL))
        now = timezone.now()
        return TaskResult(
            task=self._task,
            id=str(ctx.job_id),
            status=Status.RUNNING,
            enqueued_at=ctx.created_at,
            started_at=now,
            last_attempted_at=now,
            finished_at=None,
            args=list(args),
            kwargs=kwargs,
            backend=self._alias,
            errors=[],
            worker_ids=[str(ctx.worker_id)],
        )

    def checked(self, value: Any) -> Any:
        """Return what a task has returned, as JSON has it. Raises NotJson."""
        try:
            return normalize_json(value)
        except (TypeError, ValueError) as error:
            raise NotJson(str(error)) from error

    def failed(self, result: Any, ctx: Context, error: BaseException) -> bool:
        """Note an error in the result; return whether no attempt follows."""
        spec = self._app.tasks[self._task.module_path]
        if name_of(ctx, outcome_of_error(spec, error)) not in ("failed", "cancelled"):
            return False
        result.errors.append(error_of(ErrorInfo.of(error)))
        return self._ended(result, Status.FAILED)

    def succeeded(self, result: Any, value: Any) -> Any:
        """Note what a task has returned, and return the result."""
        object.__setattr__(result, "_return_value", value)
        self._ended(result, Status.SUCCESSFUL)
        return result

    def _ended(self, result: Any, status: Any) -> bool:
        object.__setattr__(result, "status", status)
        object.__setattr__(result, "finished_at", timezone.now())
        return True

    def send(self, signal: Any, result: Any) -> None:
        """Send a signal; Django logs what its receivers raise, and the job does not depend on it."""
        signal.send_robust(self._sender, task_result=result)

    async def asend(self, signal: Any, result: Any) -> None:
        """The async twin of `send`: receivers that are no coroutines run in a thread."""
        await signal.asend_robust(self._sender, task_result=result)

    @property
    def _sender(self) -> Any:
        return type(self._task.get_backend())
