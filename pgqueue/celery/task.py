"""A task in Celery's words: its options, its calls, its own decisions about the job that it runs for."""

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar, Generic, NoReturn, TypedDict, Unpack
from zoneinfo import ZoneInfo

from typing_extensions import ParamSpec, TypeVar

from pgqueue.celery import exceptions, signals
from pgqueue.celery.building import Call, enqueuer_of, stored_arguments
from pgqueue.celery.canvas import Part, Signature
from pgqueue.celery.eager import apply_eagerly
from pgqueue.celery.mapping import chunks, xmap, xstarmap
from pgqueue.celery.options import CallOptions
from pgqueue.celery.parts import current_adapter
from pgqueue.celery.request import Request, current_request
from pgqueue.celery.result import AsyncResult, EagerResult
from pgqueue.celery.values import written
from pgqueue.client.task import Task as CoreTask
from pgqueue.errors import InvalidOption
from pgqueue.tasks.call_shape import CallShape

P = ParamSpec("P", default=...)
R = TypeVar("R", default=Any)
_MAX_NOTE = 500  # characters of the state and meta of `update_state`


class RetryOptions(TypedDict, total=False):
    """The options of `self.retry`, beside `exc`. `countdown` is in seconds; `max_retries` counts those of the job."""

    throw: bool
    eta: datetime | None
    countdown: float | None
    max_retries: int | None


class Task(Generic[P, R]):
    """A registered function. Calling it runs it here and now; `delay` and `apply_async` make a job of it.

    A class of your own, `base=`, gives its attributes as options to the tasks that have it, and handlers:
    `before_start`, `on_success`, `on_failure`, `on_retry`, `after_return`. One object serves all runs in a process, so
    it keeps nothing of one run; `self.request` is that of the run in this thread."""

    MaxRetriesExceededError: ClassVar[type[Exception]] = exceptions.MaxRetriesExceededError

    name: str = ""
    abstract: bool = True
    has_own_base: bool = True
    max_retries: int | None = 3
    default_retry_delay: float = 180
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_kwargs: Mapping[str, Any] = {}
    retry_backoff: bool | float = False
    retry_backoff_max: float = 600
    retry_jitter: bool = True
    rate_limit: str | float | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool | None = None
    queue: str | None = None
    priority: int | None = None
    expires: Any = None
    acks_late: bool | None = None
    reject_on_worker_lost: bool | None = None
    throws: tuple[type[BaseException], ...] = ()
    pydantic: bool = False
    serializer: str | None = None
    pgqueue: Mapping[str, Any] = {}
    _app: Any = None
    _bound: bool = True

    def __repr__(self) -> str:
        return f"<@task: {self.name}>"

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The body of the task."""
        raise NotImplementedError(f"task {self.name} has no body: define run")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, without a job. In the run of a job, where a class of yours has a `__call__` of
        its own and calls this one, it is the body of that run."""
        running = current_request.get()
        if running is not None and running.task == self.name and running.calls_body:
            running.calls_body = False
            body: R = self.run(*args, **kwargs)
            return body
        request = Request(task=self.name, id=None, args=args, kwargs=dict(kwargs))
        token = current_request.set(request)
        try:
            result: R = self.run(*args, **kwargs)
            return result
        finally:
            current_request.reset(token)

    @property
    def app(self) -> Any:
        """The app that it belongs to; a shared task belongs to the current one."""
        return self._app or current_adapter()

    @property
    def core(self) -> CoreTask[..., Any]:
        """The task of pgqueue that runs it."""
        found: CoreTask[..., Any] = self.app.core_of(self.name)
        return found

    @cached_property
    def shape(self) -> CallShape:
        """How its calls are stored."""
        return CallShape.of(self.run)

    @property
    def body(self) -> Callable[..., Any]:
        """What a run calls: `run`, or the `__call__` of a class of yours, as Flask's projects have it."""
        return self.run if type(self).__call__ is Task.__call__ else self

    @property
    def is_async(self) -> bool:
        """Whether it is an `async def`."""
        return inspect.iscoroutinefunction(self.run)

    @property
    def request(self) -> Request:
        """The facts of the run in this thread; empty ones outside of a run."""
        found = current_request.get()
        return found if found is not None and found.task == self.name else Request(task=self.name)

    # --- calls

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Enqueue a job; in the caller's transaction, where `app.bind` gives its connection.

        Raises InvalidArguments before anything is written.
        """
        return self.apply_async(args, kwargs)

    delay_on_commit = delay

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> AsyncResult[R]:
        """Enqueue a job with options; see CallOptions. Raises InvalidArguments and InvalidOption before anything is
        written."""
        app, given = self.app, tuple(args or ())
        if app.conf.task_always_eager:
            ran: AsyncResult[R] = self._eager_call(given, kwargs or {}, options)
            return ran
        if options.get("link") or options.get("link_error"):
            linked: AsyncResult[R] = Part.apply_async(Signature(self.name, given, kwargs, app=app), **options)
            return linked
        call = Call(self, given, kwargs or {}, options)
        stored, positional = stored_arguments(call)
        headers = {"task": self.name, "id": options.get("task_id")}
        told: dict[str, Any] = {"headers": headers, "body": (given, dict(kwargs or {}), {})}
        signals.before_task_publish.send(self.name, **told, exchange="", routing_key=options.get("queue"))
        job = enqueuer_of(app, call, positional, app.connection_for(options)).enqueue(**stored)
        found = AsyncResult[R](options.get("task_id") or str(job.id), app=app, task=self.name)
        headers["id"] = found.id
        signals.after_task_publish.send(self.name, **told, exchange="", routing_key=job.queue)
        return found

    apply_async_on_commit = apply_async

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """Run it here and now, with its retries and without their delays; return the result. `throw` raises its
        error."""
        throw = options.get("throw", self.app.conf.task_eager_propagates)
        return apply_eagerly(self, args or (), kwargs or {}, options.get("task_id"), throw=bool(throw))

    def _eager_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        links = {name: options[name] for name in ("link", "link_error") if options.get(name)}
        part = Signature(self.name, args, kwargs, app=self.app, options=links)
        return part._eager(()) if links else self.apply(args, kwargs, task_id=options.get("task_id"))

    # --- signatures

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a call as a value. After another step it gets that one's result as its first argument."""
        return Signature(self.name, args, kwargs, app=self._app)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a call as a value that takes no result."""
        return Signature(self.name, args, kwargs, app=self._app, immutable=True)

    def signature(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Any,
    ) -> Signature:
        """Return a call as a value, with options."""
        return Signature(self.name, args, kwargs, app=self._app, options=options, immutable=immutable)

    subtask = signature

    def map(self, it: Iterable[Any]) -> Signature:
        """Return one job that calls the task with each value."""
        return xmap(self.s(), it)

    def starmap(self, it: Iterable[Sequence[Any]]) -> Signature:
        """Return one job that calls the task with each tuple of arguments."""
        return xstarmap(self.s(), it)

    def chunks(self, it: Iterable[Sequence[Any]], n: int) -> chunks:
        """Return jobs that each call the task with `n` of the tuples of arguments."""
        return chunks(self.s(), it, n)

    def AsyncResult(self, task_id: str) -> AsyncResult[R]:  # noqa: N802  # Celery's name
        """Return the result of a job of it, by its id."""
        return AsyncResult(task_id, app=self.app, task=self.name)

    # --- inside a run

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        **options: Unpack[RetryOptions],
    ) -> exceptions.Retry:
        """Ask to run the job again, after `countdown` seconds or `default_retry_delay`: `raise self.retry(exc=exc)`.

        Raises Retry, or returns it with `throw=False`. Where no retry is left it raises `exc`, or else
        MaxRetriesExceededError. The arguments of the job stay as they are.
        """
        request = self.request
        if args is not None or kwargs is not None:
            raise InvalidOption(
                f"task {self.name}: self.retry(args=…, kwargs=…) cannot be used, for a job keeps its arguments: use "
                "self.replace(self.s(…))"
            )
        cause = exc or sys.exc_info()[1]
        if request.called_directly:
            raise cause or exceptions.Retry("the task was called directly, and can only be tried again as a job")
        limit = options.get("max_retries")
        limit = self.max_retries if limit is None else limit
        if limit is not None and request.retries >= limit:
            self._give_up(request, exc)
        if request.context is not None and request.context.is_last_attempt:
            raise InvalidOption(
                f"task {self.name}: the job has {request.context.max_attempts} attempts, and self.retry(max_retries="
                f"{limit}) asks for more: give @app.task(max_retries={limit})"
            )
        again = exceptions.Retry(exc=exc, when=self._delay(options), is_eager=request.is_eager)
        again.__cause__ = cause
        if options.get("throw", True):
            raise again
        request.asked_retry = again
        return again

    def _delay(self, options: RetryOptions) -> float:
        eta, countdown = options.get("eta"), options.get("countdown")
        if eta is not None:
            moment = eta if eta.utcoffset() is not None else eta.replace(tzinfo=ZoneInfo(self.app.conf.timezone))
            return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
        return float(self.default_retry_delay if countdown is None else countdown)

    def _give_up(self, request: Request, exc: BaseException | None) -> NoReturn:
        if exc is not None:
            raise exc
        raise self.MaxRetriesExceededError(
            f"task {self.name}[{request.id}] was tried {request.retries + 1} times, and max_retries allows no more"
        )

    def replace(self, sig: Part) -> NoReturn:
        """Let a signature or canvas run in the place of this job, which ends as that does."""
        context = self.request.context
        raise exceptions.Replaced(sig.apply() if context is None else context.replace(sig.canvas()))

    def add_to_chord(self, sig: Part, lazy: bool = False) -> None:
        """Add a signature to the group of this job: the body of the chord waits for it, too, and gets its result."""
        context = self.request.context
        if context is None:
            raise InvalidOption(f"task {self.name}: add_to_chord works in a job that a worker runs")
        if self.is_async:
            raise InvalidOption(f"task {self.name} is an async def: await self.request.context.aadd(sig.canvas())")
        context.add(sig.canvas())

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None) -> None:
        """Say how far the job is: `AsyncResult.state` and `.info` have it while the job runs.

        `current` and `total` of the meta are its progress. State and meta together have 500 characters as JSON. Raises
        InvalidOption for more, and for another job than this one.
        """
        request = self.request
        if task_id not in (None, request.id):
            raise InvalidOption(
                f"task {self.name}: update_state of job {task_id} cannot be used: it is for the job itself"
            )
        note = json.dumps({"state": state or "PROGRESS", "meta": written(meta, "meta")})
        if len(note) > _MAX_NOTE:
            raise InvalidOption(f"task {self.name}: a meta of {len(note)} characters cannot be used: give {_MAX_NOTE}")
        facts = meta if isinstance(meta, Mapping) else {}
        done, total = (_number(facts.get(name)) for name in ("current", "total"))
        if request.context is not None:
            request.context.progress(done or 0, total, note)

    # --- handlers

    def before_start(self, task_id: Any, args: Any, kwargs: Any) -> Any:
        """Called before each run."""

    def on_success(self, retval: Any, task_id: Any, args: Any, kwargs: Any) -> Any:
        """Called when the task has returned."""

    def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> Any:
        """Called when the task has failed for good."""

    def on_retry(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> Any:
        """Called when the task will be tried again."""

    def after_return(self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> Any:
        """Called after each run."""


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
