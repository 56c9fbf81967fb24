"""From a task of the adapter to one of pgqueue: the function that a worker calls, and the options of its jobs."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pgqueue.celery import running
from pgqueue.celery.conf import Settings
from pgqueue.celery.options import priority_here, tell_of_late_acks
from pgqueue.celery.task import Task
from pgqueue.errors import InvalidOption, InvalidTask
from pgqueue.tasks.context import Context

AnyTask = Task[..., Any]
_RETRIES = 20  # of a task that does not say how many: `self.retry(max_retries=…)` may ask for more than the default
_MOST = 1_000_000
_FROM_CONF = {  # the attribute of a task that a setting decides, where neither the task nor its class says it
    "max_retries": "task_max_retries",
    "default_retry_delay": "task_default_retry_delay",
    "rate_limit": "task_default_rate_limit",
    "priority": "task_default_priority",
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
    "ignore_result": "task_ignore_result",
}


def make_task(function: Callable[..., Any], base: type[AnyTask], bind: bool, options: Mapping[str, Any]) -> AnyTask:
    """Return a task that runs a function: an object of a class of its own, below `base`."""
    if not (isinstance(base, type) and issubclass(base, Task)):
        raise InvalidTask(f"base={base!r:.100} cannot be used: give a class below pgqueue.celery.Task")
    body = {
        "run": function if bind else staticmethod(function),
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__wrapped__": staticmethod(function),
        **options,
    }
    made: AnyTask = type(getattr(function, "__name__", "task"), (base,), body)()
    made.__dict__["__name__"] = getattr(function, "__name__", made.name)
    return made


def rebase(task: AnyTask, base: type[AnyTask]) -> None:
    """Put a shared task below the class of tasks that its app has: it was made before the app was known."""
    own = type(task)
    if not task.has_own_base and base not in own.__mro__:
        body = {name: value for name, value in vars(own).items() if name not in ("__dict__", "__weakref__")}
        task.__class__ = type(own.__name__, (base,), body)


def settle(task: AnyTask, conf: Settings) -> None:
    """Give a task what the settings decide: annotations, and the options that it has not."""
    for name, value in _annotations(task.name, conf.task_annotations).items():
        setattr(task, name, value)
    for name, setting in _FROM_CONF.items():
        if not says(task, name) and setting in conf:
            setattr(task, name, conf[setting])
    for name in ("autoretry_for", "dont_autoretry_for", "throws"):
        setattr(task, name, tuple(getattr(task, name)))
    tell_of_late_acks(f"task {task.name}", task.acks_late)


def says(task: AnyTask, name: str) -> bool:
    """Whether a task, or a class of its own, says an option."""
    own = (vars(kind) for kind in type(task).__mro__ if kind not in (Task, object))
    return name in vars(task) or any(name in each for each in own)


def core_options(task: AnyTask, conf: Settings, queue: str | None) -> dict[str, Any]:
    """Return the options of `@app.task` of pgqueue. Raises InvalidOption, and InvalidTask."""
    found: dict[str, Any] = {
        "name": task.name,
        "queue": queue,
        "priority": priority_here(conf, task.priority),
        "max_attempts": _attempts(task),
        "no_retry_on": BaseException,  # a task decides itself, by `self.retry` and `autoretry_for`; all else is final
        "expires": task.expires,
        "rate_limit": task.rate_limit,
        "store_result": False if task.ignore_result else None,
        **_limits(task),
        **task.pgqueue,
    }
    return {name: value for name, value in found.items() if value is not None}


def core_function(task: AnyTask) -> Callable[..., Any]:
    """Return the function that a worker calls: its parameters are those under which arguments are stored."""

    def run(**given: Any) -> Any:
        context = given.pop(_CONTEXT)
        return running.perform(task, context, given)

    async def run_async(**given: Any) -> Any:
        context = given.pop(_CONTEXT)
        return await running.perform_async(task, context, given)

    function: Callable[..., Any] = run_async if task.is_async else run
    context = inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=Context)
    function.__signature__ = inspect.Signature([*_parameters(task), context])  # type: ignore[attr-defined]
    function.__module__, function.__doc__ = type(task).__module__, type(task).__doc__
    function.__name__ = function.__qualname__ = task.name.rpartition(".")[2]
    return function


_CONTEXT = "pgqueue_context"


def _parameters(task: AnyTask) -> list[inspect.Parameter]:
    if not task.pydantic:
        return task.shape.parameters
    if not task.shape.by_name:
        raise InvalidTask(f"task {task.name}: pydantic=True needs parameters with names: use no *args and **kwargs")
    signature = inspect.signature(task.run, eval_str=True)
    return list(signature.parameters.values())


def _attempts(task: AnyTask) -> int:
    asked = [task.max_retries, *([task.retry_kwargs["max_retries"]] if "max_retries" in task.retry_kwargs else [])]
    if any(retries is None for retries in asked):
        return _MOST
    retries = max(retries for retries in asked if retries is not None)
    return 1 + int(retries if says(task, "max_retries") else max(retries, _RETRIES))


def _limits(task: AnyTask) -> dict[str, Any]:
    """Return the time limits. A `def` with one runs in a child process, as all tasks do in Celery's workers."""
    if task.time_limit is None and task.soft_time_limit is None:
        return {}
    if task.is_async:
        if task.soft_time_limit is not None and says(task, "soft_time_limit"):
            raise InvalidOption(
                f"task {task.name} is an async def, in which nothing can be raised from outside: use asyncio.timeout "
                "in it instead of soft_time_limit, or time_limit, which cancels it"
            )
        return {"timeout": task.time_limit}
    return {"timeout": task.time_limit, "isolation": "process"}


def _annotations(name: str, given: Any) -> dict[str, Any]:
    """Return what `task_annotations` says of a task: for its name, and for all, "*"."""
    found: dict[str, Any] = {}
    for each in given if isinstance(given, (list, tuple)) else [given or {}]:
        if not isinstance(each, Mapping):
            raise InvalidOption(f"conf.task_annotations: {each!r:.100} cannot be used: give a dict of options by task")
        found |= dict(each.get("*", {})) | dict(each.get(name, {}))
    wrong = [key for key in found if key.startswith("@") or not hasattr(Task, key)]
    if wrong:
        raise InvalidOption(f"conf.task_annotations: {wrong[0]!r} of {name} cannot be used: give options of a task")
    return found
