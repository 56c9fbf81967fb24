"""The app: a registry of tasks and schedules, and the front door to the queue."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack, overload

from pgqueue import db
from pgqueue.client.backend import Backend
from pgqueue.client.client import Client
from pgqueue.client.depths import Depths
from pgqueue.client.options import (
    ErrorTypes,
    Options,
    check_count,
    check_depth,
    check_error_types,
    check_max_attempts,
    check_priority,
    check_result_bytes,
    check_retention,
    check_store_result,
    check_tags,
)
from pgqueue.client.schedule_options import GivenPlan, ScheduleOptions
from pgqueue.client.schedules import Schedules
from pgqueue.client.steps import OWN_CONNECTION
from pgqueue.client.task import Enqueuer, Task, TaskDecorator
from pgqueue.client.waiting import Waits, WaitVerbs
from pgqueue.codecs import Codec, check_codec
from pgqueue.config import check_queue, check_schema
from pgqueue.errors import InvalidOption, InvalidTask
from pgqueue.events import E_, Listeners
from pgqueue.jobs.job import Job
from pgqueue.jobs.outcome import Outcome
from pgqueue.jobs.retry import Delays, Exponential, RetryOption, as_policy
from pgqueue.queries import Queries
from pgqueue.schedules.plan import as_plan
from pgqueue.tasks.context import Context
from pgqueue.tasks.registry import Tasks, task_name
from pgqueue.tasks.rules import CallOptions, TaskOptions, call_rules, task_rules
from pgqueue.tasks.spec import TaskSettings, TaskSpec
from pgqueue.tasks.storable import MAX_ARGS_BYTES, MAX_RESULT_BYTES
from pgqueue.tasks.versions import Upcaster
from pgqueue.timing import LIMIT, check_optional_duration

__all__ = ["App", "Enqueuer", "Middleware", "Task"]

P = ParamSpec("P")
R = TypeVar("R")
DEFAULT_RETRY = Exponential(base=2, factor=2, max=3600, jitter=True)
Middleware = Callable[[Context, Callable[[], Awaitable[Outcome]]], Awaitable[object]]
Hook = Callable[[], object]
AnyHook = TypeVar("AnyHook", bound=Hook)
AnyTask = TypeVar("AnyTask", bound=Task[..., Any])


class App(WaitVerbs):
    """A registry of tasks and schedules over one schema of one database.

    Making one does no I/O: the DSN (argument, PGQUEUE_DSN or DATABASE_URL; `embedded:` starts a Postgres of its own) is
    looked up when it is first needed. `queue`, `max_attempts`, `retry` and `max_crashes` are the defaults of its tasks.
    `retention={"bulk": 0}` keeps nothing of what succeeds in a queue, as `@app.task(retention=0)` does of a task.
    `name` tells the schedules of several apps in one schema apart; the command line gives it what `-A` says.
    `max_depth={"bulk": 100_000}`: enqueueing raises QueueFull when about so many jobs wait there.

    `codec` encrypts what jobs carry: `AESGCM` of pgqueue.codecs, or an object of your own. `max_args_bytes` is how long
    the arguments of a job may be, as JSON. `result_ttl` is for tasks without one; a result beyond `max_result_bytes` of
    JSON is not stored.

    `pgbouncer=True` if the DSN leads to PgBouncer in transaction mode: no statement is prepared, and workers poll
    instead of listening, unless `listen_dsn` leads to the server itself.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        name: str = "",
        schema: str = "pgqueue",
        queue: str = "default",
        max_attempts: int = 20,
        retry: RetryOption = DEFAULT_RETRY,
        max_crashes: int = 5,
        retention: Mapping[str, int | None] | None = None,
        max_depth: Mapping[str, int] | None = None,
        codec: Codec | None = None,
        max_args_bytes: int = MAX_ARGS_BYTES,
        result_ttl: float | timedelta | None = None,
        max_result_bytes: int = MAX_RESULT_BYTES,
        pgbouncer: bool = False,
        listen_dsn: str | None = None,
    ) -> None:
        check_max_attempts(max_attempts)
        self.name = name
        self.schema = check_schema(schema)
        self.queue = check_queue(queue)
        self.max_attempts = max_attempts
        self.retry = as_policy(retry)
        self.max_crashes = check_count("max_crashes", max_crashes)
        self.retention = {check_queue(name): check_retention(kept) for name, kept in (retention or {}).items()}
        self.max_depth = {check_queue(name): check_depth(depth) for name, depth in (max_depth or {}).items()}
        self.depths = Depths(self.max_depth)
        self.codec = check_codec(codec)
        self.max_args_bytes = check_count("max_args_bytes", max_args_bytes, 100_000_000)
        self.result_ttl = check_optional_duration("result_ttl", result_ttl, LIMIT)
        self.max_result_bytes = check_result_bytes(max_result_bytes)
        self.tasks = Tasks()
        self.listeners = Listeners()
        self.middlewares: list[Middleware] = []
        self.child_starters: list[Callable[[], None]] = []
        self.worker_starters: list[Hook] = []
        self.worker_stoppers: list[Hook] = []
        self.backend = Backend(dsn, Queries(schema, self.codec), pgbouncer=pgbouncer, listen_dsn=listen_dsn)
        self.schedules = Schedules(self)

    @property
    def dsn(self) -> str:
        """The connection string that libpq reads. An `embedded:` one starts its server at the first look."""
        return self.backend.dsn

    @dsn.setter
    def dsn(self, dsn: str) -> None:
        self.backend.dsn = dsn

    @property
    def queries(self) -> Queries:
        """The statements, with the names of the schema in them."""
        return self.backend.queries

    @property
    def waits(self) -> Waits:
        """The waits for jobs to end."""
        return self.backend.waits

    @property
    def database(self) -> db.Database:
        """Where our own connections go."""
        return self.backend.database

    @property
    def listen_database(self) -> db.Database | None:
        """Where workers listen for notifications; None if they can only poll."""
        return self.backend.listen_database

    @overload
    def task(self, function: Callable[Concatenate[Context, P], R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        retry: RetryOption | None = None,
        retry_on: ErrorTypes = (),
        no_retry_on: ErrorTypes = (),
        timeout: float | timedelta | None = None,
        soft_timeout: float | timedelta | None = None,
        isolation: str = "thread",
        max_crashes: int | None = None,
        retention: int | None = None,
        store_result: bool = True,
        result_ttl: float | timedelta | None = None,
        tags: Sequence[str] = (),
        version: int = 1,
        upcasters: Mapping[int, Upcaster] | None = None,
        aliases: Sequence[str] = (),
        max_args_bytes: int | None = None,
        **conditions: Unpack[TaskOptions],
    ) -> TaskDecorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        retry: RetryOption | None = None,
        retry_on: ErrorTypes = (),
        no_retry_on: ErrorTypes = (),
        timeout: float | timedelta | None = None,
        soft_timeout: float | timedelta | None = None,
        isolation: str = "thread",
        max_crashes: int | None = None,
        retention: int | None = None,
        store_result: bool = True,
        result_ttl: float | timedelta | None = None,
        tags: Sequence[str] = (),
        version: int = 1,
        upcasters: Mapping[int, Upcaster] | None = None,
        aliases: Sequence[str] = (),
        max_args_bytes: int | None = None,
        **conditions: Unpack[TaskOptions],
    ) -> Any:
        """Register a function as a task: `@app.task` or `@app.task(queue=…, …)`.

        `def` runs in a thread, `async def` on the worker's event loop. A first parameter annotated
        `pgqueue.Context` is filled by the worker. Parameters are stored by name and validated by pydantic when a job
        is enqueued and when it runs.

        `retry` is a policy, a list of delays in seconds (then `max_attempts` is one more than its length, unless
        given) or one delay. `retry_on`: only these exceptions are retried. `no_retry_on`: these never are. An error
        that is not retried makes the job a dead letter at once.

        `isolation="process"` runs the task, `def` or `async def`, in a child process: a segfault, `os._exit` or the OOM
        killer ends that attempt alone. `timeout` (seconds or timedelta) cancels an `async def` and terminates a child
        process; that fails the attempt with reason *timeout*, and the policy tries again. A thread cannot be stopped:
        for it the timeout is a soft limit, and a ThreadTimeoutWarning says so. `soft_timeout` only sets `ctx.deadline`
        and makes `ctx.check()` raise.

        A job that was running when its worker died, for the `max_crashes`-th time, is a dead letter with reason
        *crashed*. `retention=0`: of a job that succeeds nothing is kept, neither its row nor its transitions; that is
        for those who want speed above all. Failures are kept as ever. `store_result=False` throws away what the task
        returns; `result_ttl` (seconds or timedelta) drops it so long after the end, and keeps the job. What else can be
        said: docs/enqueue.md.

        `version` counts changes of the signature; `upcasters[n]` makes of the arguments of version n, a dict, those of
        n + 1. `aliases` are names the task had before: their jobs run here, too.

        Raises InvalidTask if the function cannot be a task, InvalidOption for a setting out of its bounds.
        """
        check_priority(priority)
        check_max_attempts(max_attempts)
        check_tags(tags)
        policy = self.retry if retry is None else as_policy(retry)
        if max_attempts is None:
            # A list of three delays means three retries.
            max_attempts = len(policy.seconds) + 1 if isinstance(policy, Delays) else self.max_attempts
        settings = TaskSettings(
            queue=self.queue if queue is None else check_queue(queue),
            priority=priority,
            max_attempts=max_attempts,
            retry=policy,
            retry_on=check_error_types("retry_on", retry_on),
            no_retry_on=check_error_types("no_retry_on", no_retry_on),
            timeout=check_optional_duration("timeout", timeout, LIMIT),
            soft_timeout=check_optional_duration("soft_timeout", soft_timeout, LIMIT),
            isolation=isolation,
            max_crashes=self.max_crashes if max_crashes is None else check_count("max_crashes", max_crashes),
            retention=check_retention(retention),
            store_result=check_store_result(store_result, result_ttl),
            result_ttl=self.result_ttl
            if result_ttl is None
            else check_optional_duration("result_ttl", result_ttl, LIMIT),
            max_result_bytes=self.max_result_bytes,
            tags=tuple(tags),
            rules=task_rules(conditions),
            version=version,
            upcasters=upcasters or {},
            aliases=aliases,
            max_args_bytes=self.max_args_bytes
            if max_args_bytes is None
            else check_count("max_args_bytes", max_args_bytes, 100_000_000),
            codec=self.codec,
        )

        def register(function: Callable[..., Any]) -> Task[..., Any]:
            spec = TaskSpec.of(name or task_name(function), function, settings)
            self.tasks.add(spec)
            return Task(self, spec)

        return register if function is None else register(function)

    def schedule(
        self,
        plan: GivenPlan | None = None,
        /,
        *,
        name: str | None = None,
        at: datetime | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Callable[[AnyTask], AnyTask]:
        """Run a task by a plan: `@app.schedule("*/5 * * * *", timezone="Europe/Paris")` above `@app.task`.

        `plan` is a cron expression, or an interval in seconds or as a timedelta, anchored so that it never drifts, or
        an RRule; or `at` is the one moment. The schedule is called like its task unless it has a `name`; schedulers
        make it a row and fire it. The options are those of pgqueue.schedules.ScheduleOptions. Raises InvalidPlan,
        InvalidArguments or InvalidOption at once.
        """
        if plan is not None:
            as_plan(plan, options.get("timezone", "UTC"))  # what is wrong with it is said where it is written

        def declare(task: AnyTask) -> AnyTask:
            if not isinstance(task, Task):
                raise InvalidTask(f"{task!r} is no task: put @app.schedule(…) above @app.task")
            self.schedules.declare(task.name if name is None else name, task.name, plan, at=at, **options)
            return task

        return declare

    def on(self, kind: type[E_]) -> Callable[[Callable[[E_], R]], Callable[[E_], R]]:
        """Listen to a kind of event: `@app.on(JobDeadLettered)` above a function that takes one. See pgqueue.events.

        Listeners run in the process where it happens. Their errors are logged and change nothing.
        """

        def listen(listener: Callable[[E_], R]) -> Callable[[E_], R]:
            self.listeners.add(kind, listener)
            return listener

        return listen

    def on_worker_start(self, function: AnyHook) -> AnyHook:
        """Run a function, `def` or `async def`, in each worker before it claims its first job.

        What it raises ends the worker: with what is not ready nothing should be run.
        """
        self.worker_starters.append(function)
        return function

    def on_worker_stop(self, function: AnyHook) -> AnyHook:
        """Run a function, `def` or `async def`, in each worker after its last job. What it raises is logged."""
        self.worker_stoppers.append(function)
        return function

    def on_child_start(self, function: Callable[[], None]) -> Callable[[], None]:
        """Run a function in each child process before its first job: to load a model once, say."""
        self.child_starters.append(function)
        return function

    def middleware(self, wrapper: Middleware) -> Middleware:
        """Wrap the running of each job: `@app.middleware` above `async def around(ctx, call_next)`.

        `await call_next()` runs the job (or the next middleware, in the order they were added) and returns its outcome.
        It runs on the worker's event loop, whatever kind the task is. What it raises is logged and changes no outcome:
        a job whose middleware fails before `call_next` runs all the same.
        """
        if not inspect.iscoroutinefunction(wrapper):
            raise InvalidOption(f"{wrapper!r} is no middleware: it must be an async def of (ctx, call_next)")
        self.middlewares.append(wrapper)
        return wrapper

    def using(
        self,
        conn: object = OWN_CONNECTION,
        /,
        *,
        queue: str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay: float | timedelta | None = None,
        max_attempts: int | None = None,
        tags: Sequence[str] | None = None,
        version: int | None = None,
        **conditions: Unpack[CallOptions],
    ) -> Client:
        """Bind a connection to borrow, and options, for the verbs that take a task by name. As `Task.using`; and
        `version`: for which version of a task that is not registered here the arguments are meant."""
        rules = call_rules(conditions) if conditions else None
        return Client(self, conn, Options(queue, priority, run_at, delay, max_attempts, tags, rules, version))

    def enqueue(self, task: str, args: Mapping[str, Any] | None = None) -> Job:
        """Enqueue a task by name on a connection of our own, committed at once."""
        return self.using().enqueue(task, args)

    async def aenqueue(self, task: str, args: Mapping[str, Any] | None = None) -> Job:
        """Enqueue a task by name on a connection of our own, committed at once."""
        return await self.using().aenqueue(task, args)

    def get(self, job_id: int) -> Job:
        """Return a job with its attempts and their errors. Raises UnknownJob."""
        return self.using().get(job_id)

    async def aget(self, job_id: int) -> Job:
        """Return a job with its attempts and their errors. Raises UnknownJob."""
        return await self.using().aget(job_id)

    def cancel(self, job_id: int) -> bool:
        """Cancel a job that is no longer wanted; True if it was still waiting and is cancelled now.

        A running one is asked to stop: an async task is cancelled, one in a thread sees `ctx.cancelled`; then it ends
        as cancelled, unless it succeeds or fails for good first. Raises UnknownJob for a job that has ended or never
        was.
        """
        return self.using().cancel(job_id)

    async def acancel(self, job_id: int) -> bool:
        """The async twin of `cancel`."""
        return await self.using().acancel(job_id)

    def close(self) -> None:
        """Close the app's own connections. Using the app again opens new ones."""
        self.backend.close()

    async def aclose(self) -> None:
        """Close the app's own connections in this event loop, and the sync ones."""
        await self.backend.pools.aclose()
        await asyncio.to_thread(self.close)
