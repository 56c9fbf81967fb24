"""The app: a registry of tasks and schedules, and the front door to the queue."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Unpack, overload

from pgqueue.client.backend import Backend
from pgqueue.client.binding import BindVerbs
from pgqueue.client.canvas.batch import BatchVerbs
from pgqueue.client.changes import OperatorVerbs
from pgqueue.client.client import Client, LooksAfterJobs
from pgqueue.client.dead import DeadLetters
from pgqueue.client.declaring import DeclaresLimits, rules_of_queues
from pgqueue.client.depths import Depths
from pgqueue.client.enqueue_hooks import EnqueueHook, EnqueueHooks
from pgqueue.client.enqueueing import EnqueueVerbs, Insertion
from pgqueue.client.jobs import Jobs
from pgqueue.client.limits import Limits
from pgqueue.client.locks import Locks
from pgqueue.client.named_lock import LockVerbs
from pgqueue.client.operation_hooks import OperationHook
from pgqueue.client.operations import Operations
from pgqueue.client.pauses import PauseVerbs
from pgqueue.client.pruning import Pruning
from pgqueue.client.published import Events
from pgqueue.client.publishing import PublishVerbs
from pgqueue.client.queues import Queues
from pgqueue.client.routes import GivenRoutes, Routes
from pgqueue.client.schedule_options import GivenPlan, ScheduleOptions
from pgqueue.client.schedules import Schedules
from pgqueue.client.settings import (
    call_settings,
    check_args_bytes,
    check_count,
    check_depth,
    check_max_attempts,
    check_result_bytes,
    task_settings,
)
from pgqueue.client.sharding import GivenShards, Sharded, Shards
from pgqueue.client.shared_options import (
    GivenQueueDefaults,
    SharesOptions,
    check_queue_defaults,
    settings_of,
)
from pgqueue.client.signalling import SignalVerbs
from pgqueue.client.steps import CURRENT_CONNECTION, StepRunner
from pgqueue.client.task import ContextTask, Enqueuer, Task, TaskDecorator
from pgqueue.client.waiting import WaitVerbs
from pgqueue.client.workers import Workers
from pgqueue.client.workflows import Workflows
from pgqueue.codecs import Codec, check_codec
from pgqueue.config import app_release, check_queue, check_schema
from pgqueue.db.source import GivenDsn, GivenPassword
from pgqueue.doctor import Report, examine
from pgqueue.errors import InvalidOption, InvalidTask
from pgqueue.events import E_, JobDeadLettered, Listeners, name_pattern, only_of
from pgqueue.jobs.job import MAX_CRASHES
from pgqueue.jobs.limits import Limit, Rate
from pgqueue.jobs.other_names import OF_APP, tells_of
from pgqueue.jobs.outcome import Outcome
from pgqueue.jobs.retention import GivenRetention, read_retention
from pgqueue.jobs.retry import Exponential, RetryOption, as_policy
from pgqueue.process.inside import RunsInside, WorkerOptions
from pgqueue.queries import Queries
from pgqueue.schedules.plan import as_plan
from pgqueue.tasks.context import Context
from pgqueue.tasks.dead_letter_task import check_dead_letter_task
from pgqueue.tasks.function_names import as_function, task_name
from pgqueue.tasks.functions import AllowedFunctions
from pgqueue.tasks.hooks import AttemptHook, AttemptHooks, OnAttemptEnd
from pgqueue.tasks.options import NamedCallOptions, TaskOptions
from pgqueue.tasks.registry import Tasks
from pgqueue.tasks.spec import TaskSpec
from pgqueue.tasks.storable import MAX_ARGS_BYTES, MAX_RESULT_BYTES
from pgqueue.tasks.subscription import check_subscription
from pgqueue.timing import LIMIT, check_optional_duration

__all__ = ["App", "Enqueuer", "Middleware", "Task"]

P = ParamSpec("P")
R = TypeVar("R")
NO_OPTIONS: Mapping[str, Any] = {}
INSIDE = "pgqueue.inside"  # the room stands above this one: only who uses it loads a worker
DEFAULT_RETRY = Exponential(base=2, factor=2, max=3600, jitter=True)
Middleware = Callable[[Context, Callable[[], Awaitable[Outcome]]], Awaitable[object]]
Hook = Callable[[], object]
AnyHook = TypeVar("AnyHook", bound=Hook)
AnyTask = TypeVar("AnyTask", bound=Task[..., Any])


class App(
    EnqueueVerbs,
    WaitVerbs,
    OperatorVerbs,
    SignalVerbs,
    LockVerbs,
    PauseVerbs,
    BatchVerbs,
    PublishVerbs,
    Sharded,
    BindVerbs,
    DeclaresLimits,
    SharesOptions,
    LooksAfterJobs,
):
    """A registry of tasks and schedules over one schema of one database.

    Making one does no I/O: the DSN (argument, PGQUEUE_DSN or DATABASE_URL; `embedded:` starts a Postgres of its own) is
    looked up when it is first needed. `queue`, `max_attempts`, `retry`, `timeout`, `soft_timeout`, `max_crashes`,
    `dead_letter_task` and `result_ttl` are the defaults of its tasks. `routes={"emails.*": "bulk"}` gives tasks another
    queue by their names, the first pattern that fits; or a function of the name that returns a queue or None. A route
    may also be `{"queue": "bulk", "priority": -5, "max_attempts": 3}`, or some of it. What `@app.task(queue=…)` or a
    call says goes first. `queue_defaults={"mail": {"timeout": 60, "max_attempts": 5}}` gives options to the tasks of a
    queue. `functions_from=("shop.jobs",)` lets `app.enqueue(function, …)` take
    functions of these modules that have no decorator. `retention` says how long what has ended is kept
    (pgqueue.Retention); `{"queues": {"bulk": 0}}`, or `{"bulk": 0}`, keeps nothing of jobs that succeed in a queue, as
    `@app.task(retention=0)` does for a task. `name` distinguishes the schedules of several apps in one schema; the
    command line sets it to the app that `-A` names. `max_depth={"bulk": 100_000}`: enqueueing raises QueueFull while
    about so many jobs wait there. `limits={"email": Limit(50)}` limits what runs of a queue; Limit or Rate.

    `codec` encrypts arguments, results, errors and progress: `AESGCM` of pgqueue.codecs, or an object of your own.
    `max_args_bytes` limits the JSON of a job's arguments. A result beyond `max_result_bytes` of JSON is not stored.

    `release`, or else PGQUEUE_RELEASE, says which release of your code this is; `pgqueue status` shows what each worker
    runs.

    `pgbouncer=True` if the DSN leads to PgBouncer in transaction mode: no statement is prepared, and workers poll
    instead of listening, unless `listen_dsn` leads to the server itself.

    `shards=["shop_0", "shop_1"]`: schemas among which `app.shard(key)` divides keys; `{"shop_1": "postgresql://…"}` for
    those in another database. See docs/shards.md.

    `dsn` and `listen_dsn` may be functions that return the DSN, and `password` one that returns the password of a DSN
    without any, such as a token that expires: each new connection asks again, async ones in a thread.
    """

    def __init__(
        self,
        dsn: GivenDsn | None = None,
        *,
        password: GivenPassword | None = None,
        name: str = "",
        release: str | None = None,
        schema: str = "pgqueue",
        queue: str = "default",
        routes: GivenRoutes | None = None,
        queue_defaults: GivenQueueDefaults | None = None,
        functions_from: Sequence[str] = (),
        max_attempts: int = 20,
        retry: RetryOption = DEFAULT_RETRY,
        timeout: float | timedelta | None = None,
        soft_timeout: float | timedelta | None = None,
        max_crashes: int = MAX_CRASHES,
        dead_letter_task: str | None = None,
        retention: GivenRetention | None = None,
        max_depth: Mapping[str, int] | None = None,
        limits: Mapping[str, Limit | Rate] | None = None,
        codec: Codec | None = None,
        max_args_bytes: int = MAX_ARGS_BYTES,
        result_ttl: float | timedelta | None = None,
        max_result_bytes: int = MAX_RESULT_BYTES,
        pgbouncer: bool = False,
        listen_dsn: GivenDsn | None = None,
        shards: GivenShards | None = None,
    ) -> None:
        self._root, self._views, self._shards, self._password = self, {}, Shards(shards), password
        self.name = name
        self.release = app_release(release)
        self.queue, self.routes = check_queue(queue), Routes(routes)
        self.max_attempts = check_max_attempts(max_attempts)
        self.retry_policy = as_policy(retry)
        self.timeout = check_optional_duration("timeout", timeout, LIMIT)
        self.soft_timeout = check_optional_duration("soft_timeout", soft_timeout, LIMIT)
        self.max_crashes = check_count("max_crashes", max_crashes)
        self.dead_letter_task = check_dead_letter_task(dead_letter_task)
        self.retention, self.retention_rules = read_retention({} if retention is None else retention)
        self.max_depth = {check_queue(name): check_depth(depth) for name, depth in (max_depth or {}).items()}
        self.codec = check_codec(codec)
        self.max_args_bytes = check_args_bytes(max_args_bytes)
        self.result_ttl = check_optional_duration("result_ttl", result_ttl, LIMIT)
        self.max_result_bytes = check_result_bytes(max_result_bytes)
        self.rules, queue_rules = rules_of_queues(limits)
        self.tasks = Tasks(queue_rules, AllowedFunctions(functions_from, self._spec_of))
        self.listeners = Listeners()
        self.middlewares: list[Middleware] = []
        self.attempt_hooks = AttemptHooks()
        self.enqueue_hooks = EnqueueHooks()
        self.operation_hooks: list[OperationHook] = []
        self.own_work_starters: list[Callable[[], None]] = []  # in a process, before what is not a task's
        self.is_instrumented = False
        self.child_starters: list[Callable[[], None]] = []
        self.child_stoppers: list[Callable[[], None]] = []
        self.worker_starters: list[Hook] = []
        self.worker_stoppers: list[Hook] = []
        self.queue_defaults = check_queue_defaults(queue_defaults, self)
        queries = Queries(check_schema(schema), self.codec)
        self._lie_in(schema, Backend(dsn, queries, password=password, pgbouncer=pgbouncer, listen_dsn=listen_dsn))
        self.schedules: Schedules = Schedules(self)

    def _lie_in(self, schema: str, backend: Backend) -> None:
        """Use the tables of a schema, by all verbs."""
        self._own_schema, self._own_backend, self._own_depths = schema, backend, Depths(self.max_depth)
        if self._root is not self:
            self.schedules = self._root.schedules.on(self)
        self.jobs = Jobs(self)
        self.dead = DeadLetters(self)
        self.operations, self.pruning = Operations(self), Pruning(self)
        self.queues = Queues(self)
        self.limits = Limits(self)
        self.workers, self.workflows = Workers(self), Workflows(self)
        self.locks, self.events = Locks(self), Events(self)

    if not TYPE_CHECKING:
        __getattr__ = tells_of(OF_APP, "an app")

    @property
    def dsn(self) -> str:
        """The connection string that libpq reads. An `embedded:` one starts its server at the first look."""
        return self.backend.dsn

    @dsn.setter
    def dsn(self, dsn: str) -> None:
        self.backend.dsn = dsn

    @property
    def _app(self) -> "App":
        return self

    @property
    def _runner(self) -> StepRunner:
        return StepRunner(self)

    @overload
    def task(self, function: Callable[Concatenate[Context, P], R], /) -> ContextTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: None = None, /, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Unpack[TaskOptions]) -> Any:
        """Register a function as a task: `@app.task` or `@app.task(queue=…, …)`.

        `def` runs in a thread, `async def` on the worker's event loop, and either in a child process with
        `isolation="process"`. A parameter annotated `pgqueue.Context` is filled by the worker. Parameters are stored by
        name and validated by pydantic when a job is enqueued and when it runs.

        The options are those of pgqueue.TaskOptions, which explains each; docs/tasks.md has examples. An option that is
        absent or None has the app's default.

        Raises InvalidTask if the function cannot be a task, InvalidOption for an option out of its bounds.
        """
        return self.register(function, options, {})

    def register(self, function: Callable[..., Any] | None, own: Mapping[str, Any], shared: Mapping[str, Any]) -> Any:
        """Register a function with options of its own and those that it shares; without one, return a decorator."""
        task_settings({**shared, **own}, self)  # raises where the options are written

        def register(function: Callable[..., Any]) -> Task[..., Any]:
            function = as_function(function)
            spec = self._spec_of(own.get("name") or task_name(function), function, own, shared)
            check_subscription(spec)
            self.tasks.add(spec)
            for rule in () if spec.metering is None else spec.metering.rules:
                self.rules.add(rule, spec.name)
            return (Task if spec.context_parameter is None else ContextTask)(self._root, spec)

        return register if function is None else register(function)

    def _spec_of(
        self,
        name: str,
        function: Callable[..., Any],
        own: Mapping[str, Any] = NO_OPTIONS,
        shared: Mapping[str, Any] = NO_OPTIONS,
    ) -> TaskSpec:
        return TaskSpec.of(name, function, settings_of(name, own, shared, self))

    def schedule(
        self,
        plan: GivenPlan | None = None,
        /,
        *,
        name: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Callable[[AnyTask], AnyTask]:
        """Run a task by a plan: `@app.schedule("*/5 * * * *", timezone="Europe/Paris")` above `@app.task`.

        `plan` is a cron expression, or an interval in seconds or as a timedelta, anchored so that it never drifts, or
        an RRule; or `at` is the one moment. The schedule is called like its task unless it has a `name`; schedulers
        write it as a row and fire it. The options are those of pgqueue.ScheduleOptions. Raises InvalidPlan,
        InvalidArguments or InvalidOption at once.
        """
        if plan is not None:
            as_plan(plan, options.get("timezone", "UTC"))  # raises where the plan is written, not where the task is

        def declare(task: AnyTask) -> AnyTask:
            if not isinstance(task, Task):
                raise InvalidTask(f"{task!r} is no task: put @app.schedule(…) above @app.task")
            self.schedules.declare(task.name if name is None else name, task.name, plan, **options)
            return task

        return declare

    @overload
    def on(self, schema: str, /) -> "App": ...
    @overload
    def on(self, kind: type[E_], /) -> Callable[[Callable[[E_], R]], Callable[[E_], R]]: ...
    def on(self, kind: str | type[E_], /) -> Any:
        """Listen to a kind of event: `@app.on(JobDeadLettered)` above a function that takes one. See pgqueue.events.

        Listeners run in the process that emits the event. Their errors are logged and change nothing.

        With the name of a schema, `app.on("acme")`: return the app as it is in that schema. It has the same tasks,
        schedules, hooks and listeners, and all verbs. It lies in the app's database and uses the app's connections,
        unless `App(shards={"acme": dsn})` gives it another one. Each call returns the same view. Does no I/O.
        """
        if isinstance(kind, str):
            return self._view(kind)

        def listen(listener: Callable[[E_], R]) -> Callable[[E_], R]:
            self.listeners.add(kind, listener)
            return listener

        return listen

    @overload
    def on_dead(self, listener: Callable[[JobDeadLettered], R], /) -> Callable[[JobDeadLettered], R]: ...
    @overload
    def on_dead(
        self, listener: None = None, /, *, task: str
    ) -> Callable[[Callable[[JobDeadLettered], R]], Callable[[JobDeadLettered], R]]: ...
    def on_dead(self, listener: Callable[[JobDeadLettered], R] | None = None, /, *, task: str = "*") -> Any:
        """Listen to dead letters: `@app.on_dead`, or `@app.on_dead(task="shop.*")` for tasks whose names fit.

        The function, `def` or `async def`, takes a `JobDeadLettered`: the job, the reason, the error and its class. It
        runs in the worker that has written the dead letter, after the commit, and at most once: a `dead_letter_task`
        is not lost when that worker dies. Errors are logged and change nothing.
        """
        fits = name_pattern("task", task)
        if listener is not None and not callable(listener):
            raise InvalidOption(f"@app.on_dead({listener!r:.200}) cannot be used: say task=…")

        def listen(listener: Callable[[JobDeadLettered], R]) -> Callable[[JobDeadLettered], R]:
            chosen = listener if task == "*" else only_of(listener, fits)
            self.listeners.add(JobDeadLettered, chosen)
            return listener

        return listen if listener is None else listen(listener)

    def on_worker_start(self, function: AnyHook) -> AnyHook:
        """Run a function, `def` or `async def`, in each worker before it claims its first job.

        An error ends the worker: if it is not ready it should run no job.
        """
        self.worker_starters.append(function)
        return function

    def on_worker_stop(self, function: AnyHook) -> AnyHook:
        """Run a function, `def` or `async def`, in each worker after its last job. Its errors are logged."""
        self.worker_stoppers.append(function)
        return function

    def on_child_start(self, function: Callable[[], None]) -> Callable[[], None]:
        """Run a function in each child process before its first job, for example to load a model once."""
        self.child_starters.append(function)
        return function

    def on_child_stop(self, function: Callable[[], None]) -> Callable[[], None]:
        """Run a function in each child process that ends in order, after its last job. A child that is killed runs it
        not: one whose task has run too long or was cancelled, for example. Its errors change nothing."""
        self.child_stoppers.append(function)
        return function

    def around_attempt(self, hook: AttemptHook) -> AttemptHook:
        """Call a function as each run of a task begins: `@app.around_attempt` above `def hook(ctx)`.

        It is called in the place where the task runs: its thread, its task of the event loop, its child process; so
        context variables that it sets are those of the task. What it returns, unless that is None, is called there with
        an AttemptEnd when the task has ended; in a child process that is killed nothing is called. A job whose
        arguments cannot be read runs no task and calls no hook. Errors of hooks are logged and change no outcome.
        """
        self.attempt_hooks.add(hook)
        return hook

    def on_attempt_end(self, hook: OnAttemptEnd) -> OnAttemptEnd:
        """Call a function with the AttemptEnd of each run of a task, which has the exception itself:
        `@app.on_attempt_end` above `def report(end)`. Where and when: as for `around_attempt`."""
        self.attempt_hooks.add_end(hook)
        return hook

    def around_enqueue(self, hook: EnqueueHook) -> EnqueueHook:
        """Call a function before each call that enqueues: `@app.around_enqueue` above `def hook(call)`.

        It gets an EnqueueCall and may add headers to it. What it returns, unless that is None, is called at the end
        with the error that was raised, or with None. Errors of hooks are logged and change nothing.
        """
        self.enqueue_hooks.add(hook)
        return hook

    def middleware(self, wrapper: Middleware) -> Middleware:
        """Wrap the running of each job: `@app.middleware` above `async def around(ctx, call_next)`.

        `await call_next()` runs the job (or the next middleware, in the order they were added) and returns its outcome.
        It runs on the worker's event loop, whatever kind the task is. Its errors are logged and change no outcome:
        a job whose middleware fails before `call_next` runs all the same.
        """
        if not inspect.iscoroutinefunction(wrapper):
            raise InvalidOption(f"{wrapper!r} is no middleware: give an async def that takes (ctx, call_next)")
        self.middlewares.append(wrapper)
        return wrapper

    def using(self, conn: object = CURRENT_CONNECTION, /, **options: Unpack[NamedCallOptions]) -> Client:
        """Bind a connection to borrow, and options, for the verbs that take a task by name. As `Task.using`; and
        `version`: of a task that is not registered here, the version whose arguments are given."""
        return Client(self, conn, call_settings(options))

    def _insertion(self, given: Sequence[Any], named: Mapping[str, Any]) -> Insertion:
        return self.using()._insertion(given, named)

    def worker(self, *, scheduler: bool = False, **options: Unpack[WorkerOptions]) -> RunsInside:
        """Run a worker inside this process: `async with app.worker(): …` in the lifespan of a server, `with` elsewhere.

        `queues` as a list, or as `-Q` takes it; with `scheduler=True` schedules fire as well. Other options are those
        of `pgqueue work`, durations in seconds. See pgqueue.inside.Inside. Raises InvalidOption.
        """
        inside: RunsInside = import_module(INSIDE).worker_in(self, options, scheduler=scheduler)
        return inside

    def scheduler(self, *, lease_seconds: float = 30.0, poll_seconds: float = 1.0) -> RunsInside:
        """Fire schedules inside this process: `async with app.scheduler(): …`, or `with`. Raises InvalidOption."""
        inside: RunsInside = import_module(INSIDE).scheduler_in(self, lease_seconds, poll_seconds)
        return inside

    def doctor(self, *, only: Collection[str] = ()) -> Report:
        """Look for what hurts the queue: in the database, the processes and the tasks of this app. It writes nothing.

        `only`: ids of findings, to make only the checks that may have them; docs/doctor.md lists them all. Uses a
        connection of its own. Raises InvalidOption for an id that no finding has, and DatabaseUnreachable.
        """
        return examine(self, only)

    async def adoctor(self, *, only: Collection[str] = ()) -> Report:
        """The async twin of `doctor`: the same, in a thread."""
        return await asyncio.to_thread(self.doctor, only=only)

    def close(self) -> None:
        """Close the app's own connections, and those of its views. Using the app again opens new ones."""
        for backend in self._backends:
            backend.close()

    async def aclose(self) -> None:
        """Close the app's own connections in this event loop, and the sync ones."""
        for backend in self._backends:
            await backend.pools.aclose()
        await asyncio.to_thread(self.close)
