"""Django's Task with the options of pgqueue's tasks and calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any

from pgqueue.django.interface import Task, task_backends
from pgqueue.tasks.options import CallOptions, TaskOptions, check_names, without_none

# Django's own fields say these; and a call that is bound twice would have two queues.
_DJANGO_S = {"name", "queue", "priority"}
TASK_OPTIONS = tuple(name for name in TaskOptions.__annotations__ if name not in _DJANGO_S)
CALL_OPTIONS = tuple(name for name in CallOptions.__annotations__ if name not in _DJANGO_S | {"run_at", "headers"})


@dataclass(frozen=True, kw_only=True)
class _Bound(Task):
    """A task of Django's with options for the jobs to come."""

    call_options: Mapping[str, Any] = field(default_factory=dict)

    def using(self, **changes: Any) -> Any:
        """Create a new Task, as Django's `using`; and with options of a call, such as `tags`, `unique_key`, `delay`,
        `expires` and `idempotency_key`."""
        check_names(changes, (*CALL_OPTIONS, "priority", "queue_name", "run_after", "backend"), "task.using()")
        options = {name: changes.pop(name) for name in CALL_OPTIONS if name in changes}
        own = {"call_options": {**self.call_options, **options}} if options else {}
        return replace(self, **{name: value for name, value in changes.items() if value is not None}, **own)


PgqueueTask: Any = make_dataclass(
    "PgqueueTask",
    [(name, Any, field(default=None)) for name in TASK_OPTIONS],
    bases=(_Bound,),
    frozen=True,
    kw_only=True,
)
PgqueueTask.__module__ = __name__
PgqueueTask.__doc__ = """What `@task` makes of a function where the backend is pgqueue's. Its options are those of
pgqueue.TaskOptions: `max_attempts`, `retry`, `timeout`, `unique`, `limit` and so on."""


def options_of(task: Any) -> dict[str, Any]:
    """Return the options of pgqueue's that a task has: none where it was made for another backend."""
    return without_none({name: getattr(task, name, None) for name in TASK_OPTIONS})


def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    priority: int = 0,
    queue_name: str = "default",
    backend: str = "default",
    takes_context: bool = False,
    **options: Any,
) -> Any:
    """Make a function a task of Django's: as `django.tasks.task`, which takes options from Django 6.1 on.

    `options` are those of pgqueue.TaskOptions. Raises InvalidTask, and TypeError for an unknown option.
    """
    check_names(options, TASK_OPTIONS, "@task(…)")

    def make(function: Callable[..., Any]) -> Any:
        kind = task_backends[backend].task_class
        own = {"priority": priority, "queue_name": queue_name, "backend": backend, "takes_context": takes_context}
        return kind(func=function, **own, **options)

    return make if function is None else make(function)
