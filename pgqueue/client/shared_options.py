"""Options that tasks share: those of a group of tasks, of a route and of a queue, beneath what a task says itself.

From the most to the least: the call, the task, `app.with_defaults(…)`, the route, `App(queue_defaults=…)`, the app.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, Unpack, cast, overload

from pgqueue.client.routes import Route, Routes
from pgqueue.client.settings import TaskDefaults, task_settings
from pgqueue.client.task import ContextTask, Task, TaskDecorator
from pgqueue.config import check_queue
from pgqueue.errors import InvalidOption
from pgqueue.tasks.context import Context
from pgqueue.tasks.options import TaskOptions, check_names, without_none
from pgqueue.tasks.spec import TaskSettings

P = ParamSpec("P")
R = TypeVar("R")
_OF_ONE_TASK = frozenset({"name", "on", "version", "upcasters", "aliases"})
SHARED = TaskOptions.__annotations__.keys() - _OF_ONE_TASK
QUEUE_DEFAULTS = "queue_defaults"
GROUP, ROUTE, QUEUE = "with_defaults", "route", "queue"  # where a setting comes from, as `pgqueue tasks show` says it
GivenQueueDefaults: TypeAlias = Mapping[str, TaskOptions]


class RegistersTasks(TaskDefaults, Protocol):
    """The app whose tasks share options."""

    routes: Routes
    queue_defaults: dict[str, dict[str, Any]]

    def register(
        self, function: Callable[..., Any] | None, own: Mapping[str, Any], shared: Mapping[str, Any]
    ) -> Any: ...


def check_queue_defaults(given: object, app: TaskDefaults) -> dict[str, dict[str, Any]]:
    """Return the options of the tasks of each queue. Raises InvalidOption."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidOption(f"queue_defaults={given!r:.100} cannot be used: give {{'mail': {{'max_attempts': 5}}}}")
    found = {check_queue(queue): check_shared(f"queue_defaults of {queue}", of_one) for queue, of_one in given.items()}
    for of_queue in found.values():
        task_settings(of_queue, app)  # raises for values that cannot be used
    return found


def check_shared(where: str, given: object) -> dict[str, Any]:
    """Return options that several tasks may share. Raises InvalidOption for those that belong to one task, or of a
    queue to another; TypeError for an unknown one."""
    if not isinstance(given, Mapping):
        raise InvalidOption(f"{where}: {given!r:.100} cannot be used: give a dict of options")
    own = sorted(_OF_ONE_TASK.intersection(given)) + ["queue"] * (where.startswith(QUEUE_DEFAULTS) and "queue" in given)
    if own:
        raise InvalidOption(f"{where} cannot have {own[0]}: it belongs to one task, @app.task({own[0]}=…)")
    check_names(given, SHARED, where)
    return without_none(given)


def settings_of(name: str, own: Mapping[str, Any], shared: Mapping[str, Any], app: RegistersTasks) -> TaskSettings:
    """Return the settings of a task: what it says itself, and beneath it the group, the route and the queue."""
    said = {**without_none(shared), **without_none(own)}
    route = _beneath(app.routes.of(name), said)
    queue = said.get("queue", route.get("queue", app.queue))
    of_queue = {option: value for option, value in app.queue_defaults.get(queue, {}).items() if option not in route}
    of_queue = _without_attempts(of_queue, said)
    origins = dict.fromkeys(of_queue, QUEUE) | dict.fromkeys(route, ROUTE) | dict.fromkeys(shared, GROUP)
    settings = task_settings({**of_queue, **route, **said}, app)
    origins = {option: where for option, where in origins.items() if option not in without_none(own)}
    return replace(settings, given=frozenset(said), origins=origins)


def _beneath(route: Route, said: Mapping[str, Any]) -> dict[str, Any]:
    return _without_attempts({name: value for name, value in route.options.items() if name not in said}, said)


def _without_attempts(given: dict[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out a number of attempts where the task has a retry policy: a list of delays says how many there are."""
    left_out = {"max_attempts"} if "retry" in said else set()
    return {name: value for name, value in given.items() if name not in left_out and name not in said}


class TasksWithDefaults:
    """Tasks that share options: what `app.with_defaults(…)` returns."""

    def __init__(self, app: RegistersTasks, options: Mapping[str, Any]) -> None:
        self._app = app
        self._options = options
        task_settings(options, app)  # raises for values that cannot be used

    def __repr__(self) -> str:
        return f"<tasks with {', '.join(sorted(self._options)) or 'no defaults'}>"

    def with_defaults(self, **options: Unpack[TaskOptions]) -> "TasksWithDefaults":
        """Return these options with others above them."""
        return TasksWithDefaults(self._app, {**self._options, **check_shared("with_defaults()", options)})

    @overload
    def task(self, function: Callable[Concatenate[Context, P], R], /) -> ContextTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: None = None, /, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Unpack[TaskOptions]) -> Any:
        """Register a task, as `app.task` does; its own options go first."""
        return self._app.register(function, options, self._options)


class SharesOptions:
    """`with_defaults` of an app."""

    def with_defaults(self, **options: Unpack[TaskOptions]) -> TasksWithDefaults:
        """Return a place to register tasks that share options: `mails = app.with_defaults(queue="mail", timeout=60)`,
        and `@mails.task` above each.

        What a task says itself goes before them; they go before the route, the queue and the app. It has a
        `with_defaults` of its own. Raises InvalidOption, TypeError for an unknown option.
        """
        return TasksWithDefaults(cast(RegistersTasks, self), check_shared("with_defaults()", options))
