"""`Celery`: an app in Celery's words, over an App of pgqueue that is made of its settings when it is first used."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from threading import RLock
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload
from zoneinfo import ZoneInfo

from pgqueue.app import App
from pgqueue.celery import beat, processes
from pgqueue.celery.canvas import Signature
from pgqueue.celery.conf import Settings, is_dsn
from pgqueue.celery.control import Control
from pgqueue.celery.decorating import SHARED, BoundDecorator, Decorator, TaskRegistry, task_of
from pgqueue.celery.mapping import signature
from pgqueue.celery.options import CallOptions, TaskOptions, call_options, priority_here
from pgqueue.celery.parts import set_current
from pgqueue.celery.registering import core_function, core_options, rebase, says, settle
from pgqueue.celery.request import current_request, family
from pgqueue.celery.result import AsyncResult, GroupResult
from pgqueue.celery.routing import OF_TASKS, route_of
from pgqueue.celery.signals import Signal
from pgqueue.celery.task import Task
from pgqueue.celery.values import written
from pgqueue.client.steps import CURRENT_CONNECTION, OWN_CONNECTION
from pgqueue.client.task import Task as CoreTask
from pgqueue.errors import ConfigError, InvalidArguments, InvalidOption, UnknownTask, UnknownVerb

P = ParamSpec("P")
R = TypeVar("R")
AnyTask = Task[..., Any]
NOT_HERE = {
    "config_from_envvar": "config_from_object(os.environ[…])",
    "connection": "app.bind(…), and app.pgqueue",
    "events": "@app.on(…) of app.pgqueue",
    "start": "the command `pgqueue work -A module:app`",
    "worker_main": "the command `pgqueue work -A module:app`",
    "Worker": "the command `pgqueue work -A module:app`",
    "Beat": "the command `pgqueue schedule -A module:app`",
    "amqp": "queue=",
    "backend": "AsyncResult, and app.pgqueue",
    "pool": "app.pgqueue",
}


class Celery:
    """An app in Celery's words. `app.pgqueue` is the App of pgqueue below it, which the command line takes as well.

    Making one does no I/O. `broker`: a DSN of Postgres; another one is not used, and PGQUEUE_DSN counts. `include`:
    modules with tasks. `pgqueue`: an App of your own, with what the settings cannot say. Other keywords are settings.
    """

    on_after_configure: Signal
    on_after_finalize: Signal

    def __init__(
        self,
        main: str | None = None,
        *,
        include: Sequence[str] = (),
        set_as_current: bool = True,
        pgqueue: App | None = None,
        **settings: Any,
    ) -> None:
        self.main = main
        self.Task: type[AnyTask] = settings.pop("task_cls", None) or Task
        self.control = Control(self)
        self.on_after_configure, self.on_after_finalize = Signal("on_after_configure"), Signal("on_after_finalize")
        self._given, self._core_app = pgqueue, pgqueue
        self._conf = Settings()
        self._sources: list[tuple[Any, str | None]] = []
        self._own = TaskRegistry()
        self._cores: dict[str, CoreTask[..., Any]] = {}
        self._functions: dict[AnyTask, Callable[..., Any]] = {}  # kept, for a second attempt to make the app
        self._modules: list[Callable[[], Iterable[str]]] = []
        self._added: dict[str, dict[str, Any]] = {}
        self._lent: Callable[[], object] | None = None
        self._lock, self._state = RLock(), "open"
        if "config_source" in settings:
            self.config_from_object(settings.pop("config_source"), settings.pop("namespace", None))
        names = {"broker": "broker_url", "backend": "result_backend"}
        self._conf.update({names.get(name, name): value for name, value in settings.items()}, include=tuple(include))
        self._add_mapping_tasks()
        if set_as_current:
            set_current(self)

    def _add_mapping_tasks(self) -> None:
        """Register the tasks behind `task.map` and `task.starmap`: they call a task that is registered here."""

        @self.task(name="celery.map")
        def xmap(task: str, it: list[Any]) -> list[Any]:
            return [self.tasks[task](value) for value in it]

        @self.task(name="celery.starmap")
        def xstarmap(task: str, it: list[Any]) -> list[Any]:
            return [self.tasks[task](*values) for values in it]

    def __repr__(self) -> str:
        return f"<Celery {self.main or ''} over pgqueue>"

    def __getattr__(self, name: str) -> Any:
        if name in NOT_HERE:
            raise UnknownVerb("a Celery app of pgqueue", name, NOT_HERE[name])
        raise AttributeError(f"a Celery app of pgqueue has no {name!r}")

    def __pgqueue_app__(self) -> App:
        """Return the App of pgqueue, for the command line."""
        return self.pgqueue

    @property
    def conf(self) -> Settings:
        """The settings."""
        while self._sources:
            self._conf.take(*self._sources.pop(0))
        return self._conf

    @property
    def pgqueue(self) -> App:
        """The App of pgqueue, with all tasks and schedules. The first look makes it of the settings."""
        self.complete()
        if self._core_app is None:
            raise ConfigError("the app is being made just now: use app.pgqueue after its modules are imported")
        return self._core_app

    @property
    def tasks(self) -> Mapping[str, AnyTask]:
        """Its tasks by name, the shared ones among them."""
        self.complete()
        return SHARED.tasks | self._own.tasks

    @property
    def current_task(self) -> AnyTask | None:
        """The task that runs in this thread."""
        request = current_request.get()
        return None if request is None else self.tasks.get(request.task or "")

    def set_current(self) -> None:
        """Make it the app that shared tasks belong to."""
        set_current(self)

    set_default = set_current

    # --- settings

    def config_from_object(self, source: Any, namespace: str | None = None, silent: bool = False, **_: Any) -> None:
        """Take settings from a module, a class, a mapping, or the name of one, when they are first needed."""
        self._sources.append((source, namespace))

    def bind(self, lend: Callable[[], object]) -> Callable[[], object]:
        """Let calls be in the caller's transaction: `lend()` returns the connection or session of the caller, or None.

        In Django: `app.bind(lambda: connection)`. It is borrowed, never committed and never closed.
        `transactional=False` in a call stays out of it, `using=conn` names another one."""
        self._lent = lend
        if self._core_app is not None:
            self._core_app.bind(lend)
        return lend

    def autodiscover_tasks(self, packages: Any = None, related_name: str | None = "tasks", force: bool = False) -> None:
        """Import the module `tasks` of each package when the app is first used; without packages, of Django's apps."""
        self._modules.append(lambda: _related(packages() if callable(packages) else packages, related_name))

    def add_periodic_task(
        self, schedule: Any, sig: Signature, name: str | None = None, *, kwargs: Any = None, args: Any = (), **opts: Any
    ) -> str:
        """Declare a schedule of a signature, as an entry of `beat_schedule` is; return its name."""
        key = name or repr(sig)
        options = {**sig.options, **opts}
        given = {"args": (*sig.args, *args), "kwargs": {**sig.kwargs, **(kwargs or {})}, "options": options}
        self._added[key] = {"task": sig.task, "schedule": schedule, **given}
        if self._state == "ready":
            beat.declare(self, key, self._added[key])
        return key

    # --- tasks

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, _: None = None, /, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
    @overload
    def task(self, _: None = None, /, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> Decorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, *, bind: bool = False, **options: Any) -> Any:
        """Register a function as a task: `@app.task`, `@app.task(bind=True, …)`; see TaskOptions.

        Raises InvalidTask and InvalidOption; some of them when the app is first used, for the settings decide, too.
        """

        def register(function: Callable[..., Any]) -> AnyTask:
            return self.register_task(task_of(function, self.Task, bind, self.main, options))

        return register if function is None else register(function)

    def register_task(self, task: AnyTask | type[AnyTask]) -> AnyTask:
        """Register a task that is an object of a class of your own with `run`, or such a class."""
        made = task() if isinstance(task, type) else task
        made.name = made.name or f"{type(made).__module__}.{type(made).__name__}"
        made._app = self
        self._own.add(made)
        if self._state == "ready":
            self._register(made)
        return made

    def core_of(self, name: str) -> CoreTask[..., Any]:
        """Return the task of pgqueue that runs one of these. Raises UnknownTask."""
        self.complete()
        if name not in self._cores and name in SHARED.tasks:
            self._register(SHARED.tasks[name])  # its module was imported after the first use
        if name not in self._cores:
            raise UnknownTask(f"no task named {name!r} is registered in {self!r}: import its module")
        return self._cores[name]

    def complete(self) -> None:
        """Make the App of pgqueue, if it was not made yet: of the settings, the modules with tasks, and the
        schedules."""
        if self._state == "ready":
            return
        with self._lock:
            if self._state != "open":
                return
            self._state = "making"
            try:
                self._make()
            except BaseException:
                self._state, self._core_app = "open", self._given
                self._cores.clear()
                raise

    def _make(self) -> None:
        self.on_after_configure.send(self)
        conf = self.conf
        if self._given is not None:
            _check_left_to_the_app(conf)
        if self._core_app is None:
            dsn = conf.broker_url if is_dsn(conf.broker_url) else None
            self._core_app = App(dsn, queue=conf.task_default_queue, result_ttl=conf.result_expires or None)
        if self._lent is not None:
            self._core_app.bind(self._lent)
        for module in (*conf.include, *conf.imports, *(name for find in self._modules for name in find())):
            importlib.import_module(module)
        for task in {**SHARED.tasks, **self._own.tasks}.values():
            self._register(task)
        self.on_after_finalize.send(self)
        for name, entry in {**conf.beat_schedule, **self._added}.items():
            if name not in self._core_app.schedules:
                beat.declare(self, name, entry)
        processes.connect(self._core_app, self)
        conf.seal()
        self._state = "ready"

    def _register(self, task: AnyTask) -> None:
        if self._core_app is None:
            raise ConfigError("the app is being made just now")
        rebase(task, self.Task)
        settle(task, self.conf)
        default = self.conf.task_default_queue if "task_default_queue" in self.conf else None
        route = route_of(self.conf, task.name)
        for name in OF_TASKS:
            if name in route and not says(task, name):
                setattr(task, name, route[name])
        options = core_options(task, self.conf, task.queue or route.get("queue") or default)
        if "priority" in route:
            options.setdefault("priority", priority_here(self.conf, route["priority"]))
        if "expires" in route:
            options.setdefault("expires", route["expires"])
        function = self._functions.setdefault(task, core_function(task))
        self._cores[task.name] = self._core_app.task(**options)(function)

    # --- calls

    def send_task(
        self, name: str, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:  # fmt: skip
        """Enqueue a task by its name. One that is not registered here waits for a worker that knows it, and takes its
        arguments by name. Raises InvalidArguments and InvalidOption."""
        task = self.tasks.get(name)
        if task is not None:
            return task.apply_async(args, kwargs, **options)
        if args:
            raise InvalidArguments(
                name,
                [f"task {name} is not registered here, so its parameters are not known: give kwargs, or import it"],
            )
        found = call_options(self, None, name, options, ((), kwargs))
        if options.get("link") or options.get("link_error"):
            raise InvalidOption(f"link= of task {name} cannot be used: it is not registered here")
        headers = family() | found.pop("headers")
        given = {key: written(value, key) for key, value in (kwargs or {}).items()}
        client = self.pgqueue.using(self.connection_for(options), **found, headers=headers or None)
        return AsyncResult(options.get("task_id") or str(client.enqueue(name, given).id), app=self, task=name)

    def signature(self, task: Any, *args: Any, **options: Any) -> Signature:
        """Return a call of a task of this app as a value."""
        return signature(task, *args, app=self, **options)

    def AsyncResult(self, task_id: str, **_: Any) -> AsyncResult[Any]:  # noqa: N802  # Celery's name
        """Return the result of a job by its id."""
        return AsyncResult(task_id, app=self)

    def GroupResult(self, task_id: str, results: Sequence[Any] = ()) -> GroupResult:  # noqa: N802  # Celery's name
        """Return the results of a group."""
        return GroupResult(task_id, results)

    def now(self) -> datetime:
        """Return the time in the timezone of the settings."""
        return datetime.now(ZoneInfo(self.conf.timezone or "UTC"))

    def connection_for(self, options: Mapping[str, Any]) -> object:
        """Return the connection for a call: `using`, one of pgqueue's own with `transactional=False`, else that of
        `ctx.transaction()` around it, or the one that `bind` lends."""
        if options.get("using") is not None:
            return options["using"]
        if options.get("transactional") is False:
            return OWN_CONNECTION
        return CURRENT_CONNECTION

    def queue_of(self, task: str, args: Any = (), kwargs: Any = None) -> str | None:
        """Return the queue that the routes give to a task, None for its own one."""
        own = SHARED.tasks.get(task) or self._own.tasks.get(task)
        if own is not None and own.queue is not None:
            return own.queue
        queue: str | None = route_of(self.conf, task, args, kwargs).get("queue")
        return queue

    def route_of(self, task: str, args: Any = (), kwargs: Any = None) -> dict[str, Any]:
        """Return what the routes give to a call of a task, which the task does not say itself."""
        own = SHARED.tasks.get(task) or self._own.tasks.get(task)
        route = route_of(self.conf, task, args, kwargs)
        return {name: value for name, value in route.items() if own is None or not says(own, name)}

    def close(self) -> None:
        """Close the connections of the app."""
        if self._core_app is not None:
            self._core_app.close()


def _check_left_to_the_app(conf: Settings) -> None:
    """Refuse settings that an App of the user's own decides."""
    for name, instead, is_set in (
        ("broker_url", "the DSN", is_dsn(conf.broker_url)),
        ("result_expires", "result_ttl", "result_expires" in conf and conf.result_expires is not None),
    ):
        if is_set:
            raise ConfigError(f"conf.{name} beside Celery(pgqueue=App(…)) cannot be used: give {instead} to the App")


def _related(packages: Any, related: str | None) -> Iterable[str]:
    """Return the modules of this name in packages, those that exist."""
    if packages is None:
        if "django" not in sys.modules:
            raise ConfigError("autodiscover_tasks() without packages is for Django: give the names of the packages")
        apps = importlib.import_module("django.apps").apps
        packages = [config.name for config in apps.get_app_configs()]
    for package in [packages] if isinstance(packages, str) else packages:
        name = f"{package}.{related}" if related else package
        if importlib.util.find_spec(name) is not None:
            yield name
