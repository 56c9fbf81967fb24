"""`@app.task` and `@shared_task`: a function and its options become a task."""

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, Unpack, overload

from pgqueue.celery.options import TaskOptions, check_json, check_names
from pgqueue.celery.registering import make_task
from pgqueue.celery.task import Task
from pgqueue.errors import InvalidTask

P = ParamSpec("P")
R = TypeVar("R")
AnyTask = Task[..., Any]


class Decorator(Protocol):
    """What `@app.task(…)` returns."""

    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BoundDecorator(Protocol):
    """What `@app.task(bind=True, …)` returns: the function takes the task as its first argument."""

    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class TaskRegistry:
    """Tasks by their names."""

    def __init__(self) -> None:
        self.tasks: dict[str, AnyTask] = {}

    def add(self, task: AnyTask) -> AnyTask:
        """Register a task. Raises InvalidTask where another function has its name."""
        known = self.tasks.get(task.name)
        if known is not None and _code(known) != _code(task):
            raise InvalidTask(f"two functions are named task {task.name!r}: give one of them name=…")
        self.tasks[task.name] = task
        return task


SHARED = TaskRegistry()  # those of every app


def task_of(
    function: Callable[..., Any], default: type[AnyTask], bind: bool, main: str | None, options: Mapping[str, Any]
) -> AnyTask:
    """Return the task of a function, with its name: its module's and its own, as Celery has it."""
    given = dict(options)
    base, name = given.pop("base", None) or default, given.pop("name", None)
    if not callable(function):
        raise InvalidTask(f"@app.task above {function!r:.100} cannot be used: it goes above a function")
    where = f"task {name or getattr(function, '__name__', function)}"
    check_names(given, TaskOptions.__annotations__, where)
    check_json(where, given)
    module = function.__module__
    full = name or f"{main if module == '__main__' and main else module}.{function.__name__}"
    return make_task(function, base, bind, {**given, "name": full, "has_own_base": "base" in options})


@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(_: None = None, /, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
@overload
def shared_task(_: None = None, /, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> Decorator: ...
def shared_task(function: Any = None, /, *, bind: bool = False, **options: Any) -> Any:
    """Register a function as a task of every app: `@shared_task`, `@shared_task(bind=True, …)`.

    A call goes to the current app, the last one that was made unless `app.set_current()` says otherwise. Raises
    InvalidTask and InvalidOption.
    """

    def register(function: Callable[..., Any]) -> AnyTask:
        return SHARED.add(task_of(function, Task, bind, None, options))

    return register if function is None else register(function)


def _code(task: AnyTask) -> Any:
    code = getattr(getattr(task.run, "__func__", task.run), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else type(task)
