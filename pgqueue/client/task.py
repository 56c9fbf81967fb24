"""Tasks as callers use them: called like the function, or enqueued."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, Unpack, overload

from pgqueue.client.admission import Bulk, JobBatch
from pgqueue.client.app_parts import AppParts
from pgqueue.client.canvas.calls import Calls
from pgqueue.client.canvas.making import MakesSignatures
from pgqueue.client.inserting import JobInserter, new_job
from pgqueue.client.keyed_calls import KeyedCalls
from pgqueue.client.settings import CallSettings, call_settings
from pgqueue.client.steps import CURRENT_CONNECTION, Steps
from pgqueue.errors import InvalidArguments, InvalidOption
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import Job, NewJob
from pgqueue.jobs.other_names import OF_TASK, tells_of
from pgqueue.tasks.context import Context
from pgqueue.tasks.options import CallOptions
from pgqueue.tasks.rules import Rules
from pgqueue.tasks.spec import TaskSpec

P = ParamSpec("P")
R = TypeVar("R")
R_out = TypeVar("R_out", covariant=True)


class Enqueuer(MakesSignatures[P, R_out]):
    """A task bound to a connection and options: what `task.using(…)` returns."""

    def __init__(self, app: AppParts, spec: TaskSpec, conn: object, settings: CallSettings) -> None:
        self._app = app
        self._spec = spec
        self._inserter = JobInserter(app, conn)
        self._settings = settings

    if not TYPE_CHECKING:
        __getattr__ = tells_of(OF_TASK, "a task")

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Insert one job. On a borrowed connection it exists if and only if the caller's transaction commits.

        Raises InvalidArguments before anything is written.
        """
        return self._inserter.insert(self._new(args, kwargs))

    async def aenqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Job:
        """The async twin of `enqueue`."""
        return await self._inserter.ainsert(self._new(args, kwargs))

    def enqueue_many(self, calls: Iterable[Mapping[str, Any]]) -> list[int]:
        """Insert a job for each mapping of arguments by name, all or none; return their ids in order.

        All arguments are validated first: InvalidArguments names the position of the call, and nothing is written.
        """
        shared = self._shared()
        if not self._app.enqueue_hooks:
            return self._inserter.insert_many(self._inserting(shared, calls))
        given = list(calls)
        with self._app.enqueue_hooks.around(shared, len(given)) as call:
            call.job_ids = ids = self._inserter.insert_many(self._inserting(shared, given))
        return ids

    async def aenqueue_many(self, calls: Iterable[Mapping[str, Any]]) -> list[int]:
        """The async twin of `enqueue_many`."""
        shared = self._shared()
        if not self._app.enqueue_hooks:
            return await self._inserter.ainsert_many(self._inserting(shared, calls))
        given = list(calls)
        with self._app.enqueue_hooks.around(shared, len(given)) as call:
            call.job_ids = ids = await self._inserter.ainsert_many(self._inserting(shared, given))
        return ids

    @property
    def _calls(self) -> Calls:
        if not self._inserter.is_unbound:
            raise InvalidOption(
                f"a signature of {self._spec.name} has no connection: give it to the canvas, flow.using(conn).enqueue()"
            )
        return Calls(self._app, self._spec, self._settings)

    def _new(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> NewJob:
        spec, settings = self._spec, self._settings
        if settings.rules is None and spec.metering is None:
            return new_job(spec.coder.encode(args, kwargs), settings, spec, spec.name, self._app)
        values: list[dict[str, Any]] = []
        return new_job(spec.coder.encode(args, kwargs, values), settings, spec, spec.name, self._app, values[0])

    def _shared(self) -> NewJob:
        """Return a job with what all jobs of a call share."""
        settings = self._settings if self._settings.rules is None else replace(self._settings, rules=None)
        return new_job("", settings, self._spec, self._spec.name, self._app)

    def _inserting(self, shared: NewJob, calls: Iterable[Mapping[str, Any]]) -> Steps[list[int]]:
        rules = self._settings.rules
        if rules is not None:
            return self._inserter.conditional_bulk(self._bulk(shared, calls, rules))
        if not self._flows_differ:
            return self._inserter.plain_bulk(shared, list(self._spec.coder.encode_many(calls)))
        values: list[dict[str, Any]] = []
        blocks = list(self._spec.coder.encode_many(calls, values))
        return self._inserter.metered_bulk(shared, blocks, self._flows(shared, values))

    @property
    def _flows_differ(self) -> bool:
        """Whether each job has a flow of its own, made of its arguments."""
        metering = self._spec.metering
        return metering is not None and metering.is_keyed

    def _flows(self, shared: NewJob, values: Sequence[Mapping[str, Any]]) -> list[Flow | None]:
        """Return the flow of each of many calls. InvalidArguments names the position of the call."""
        return [self._flow_at(at, shared, value) for at, value in enumerate(values)]

    def _flow_at(self, position: int, shared: NewJob, values: Mapping[str, Any]) -> Flow | None:
        try:
            return self._app.tasks.flow(self._spec, self._spec.name, shared.queue, values, self._settings.keys)
        except InvalidArguments as error:
            raise error.at(position) from None

    def _bulk(self, shared: NewJob, calls: Iterable[Mapping[str, Any]], rules: Rules) -> Bulk:
        if rules.key is not None:
            return KeyedCalls.of(
                self._spec, shared, rules, calls, partial(self._flows, shared) if self._flows_differ else None
            )
        return JobBatch.of(list(self._each(calls, rules, shared)))

    def _each(self, calls: Iterable[Mapping[str, Any]], rules: Rules, shared: NewJob) -> Iterator[NewJob]:
        """Yield the job of each call, with its own conditions."""
        spec, count = self._spec, 0
        for at, call in enumerate(calls):
            values: list[dict[str, Any]] = []
            text = spec.coder.encode_at(at, call, values)
            job = shared.for_call(
                text, rules.conditions(spec.name, partial(spec.coder.complete_text, text), values[0], at)
            )
            if self._flows_differ:
                job.flow = self._flow_at(at, shared, values[0])
            yield job
            count += 1
        rules.check_key_count(count)


class Task(Enqueuer[P, R_out]):
    """A registered function. Calling it runs it here and now; `enqueue` makes a job of it."""

    def __init__(self, app: AppParts, spec: TaskSpec) -> None:
        super().__init__(app, spec, CURRENT_CONNECTION, CallSettings(rules=spec.rules))
        self.__doc__ = spec.function.__doc__
        self.__name__ = getattr(spec.function, "__name__", spec.name)
        self.__wrapped__ = spec.function

    def __repr__(self) -> str:
        return f"<task {self._spec.name}>"

    @property
    def name(self) -> str:
        """The name jobs of this task carry."""
        return self._spec.name

    @property
    def spec(self) -> TaskSpec:
        """The registered function and the defaults of its jobs."""
        return self._spec

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of its arguments, as a job carries them."""
        return self._spec.json_schema()

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_out:
        """Run the function directly, without a job."""
        result: R_out = self._spec.function(*args, **kwargs)
        return result

    def using(self, conn: object = CURRENT_CONNECTION, /, **options: Unpack[CallOptions]) -> Enqueuer[P, R_out]:
        """Bind a connection to borrow and options for the jobs to come.

        `conn` is a psycopg connection, a SQLAlchemy Connection or Session, or the async form of one; or one of Django's
        or asyncpg's. It is never committed and never closed. Without it each call uses an own connection of pgqueue and
        commits at once, but inside `ctx.transaction()` it joins that transaction; pgqueue.OWN_CONNECTION never joins.
        `run_at` is an aware datetime, `delay` seconds or a timedelta; a higher `priority` (-100 to 100) runs sooner;
        `max_attempts` counts the first run. All options: pgqueue.CallOptions and docs/enqueue.md.
        """
        settings = call_settings(options, self._spec) if options else self._settings
        return Enqueuer(self._app, self._spec, conn, settings)


class ContextTask(Task[P, R_out]):
    """A task with a Context: a direct call gives one, as `pgqueue.testing.context(task)` makes it; `enqueue` does not.

    Type checkers know the parameter where it is the first, and want it by position.
    """

    if TYPE_CHECKING:

        def __call__(self, context: Context, /, *args: P.args, **kwargs: P.kwargs) -> R_out: ...  # type: ignore[override]


class TaskDecorator(Protocol):
    """What `@app.task(…)` returns."""

    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], R], /) -> ContextTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
