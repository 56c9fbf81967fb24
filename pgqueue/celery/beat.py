"""`conf.beat_schedule` and `add_periodic_task`: schedules of pgqueue."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pgqueue.celery.options import priority_here
from pgqueue.celery.parts import Adapter
from pgqueue.celery.schedules import as_celery_plan
from pgqueue.celery.values import written
from pgqueue.errors import InvalidArguments, InvalidOption, InvalidPlan

_FIELDS = {"task", "schedule", "args", "kwargs", "options", "relative"}
_OPTIONS = {"queue", "priority", "expires", "countdown", "headers"}


def declare(adapter: Adapter, name: str, entry: Mapping[str, Any]) -> None:
    """Declare an entry as a schedule. Raises InvalidPlan, InvalidOption and InvalidArguments, which name it."""
    unknown = sorted(set(entry) - _FIELDS)
    if unknown or "task" not in entry or "schedule" not in entry:
        raise InvalidPlan(
            f"beat_schedule[{name!r}] {f'has {unknown[0]!r}' if unknown else 'is not whole'}: give task, schedule, and "
            "perhaps args, kwargs and options"
        )
    task = entry["task"]
    task_name = str(getattr(task, "name", task))
    options = _options(adapter, name, entry.get("options") or {})
    adapter.pgqueue.schedules.declare(
        name,
        task_name,
        as_celery_plan(entry["schedule"], str(adapter.conf.timezone or "UTC")),
        args=_arguments(adapter, name, task_name, entry),
        **{"queue": adapter.queue_of(task_name), **options},
    )


def _options(adapter: Adapter, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    wrong = sorted(set(given) - _OPTIONS)
    if wrong:
        raise InvalidOption(
            f"beat_schedule[{name!r}]: option {wrong[0]!r} has no place: give {', '.join(sorted(_OPTIONS))}"
        )
    expires = given.get("expires")
    if expires is not None and not isinstance(expires, (int, float, timedelta)):
        raise InvalidOption(
            f"beat_schedule[{name!r}]: expires={expires!r:.100} cannot be used: give seconds after the tick"
        )
    found = {
        "queue": given.get("queue"),
        "priority": priority_here(adapter.conf, given.get("priority")),
        "expires": expires,
        "delay": given.get("countdown"),
        "headers": given.get("headers"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _arguments(adapter: Adapter, name: str, task_name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    args, kwargs = tuple(entry.get("args") or ()), dict(entry.get("kwargs") or {})
    task = adapter.tasks.get(task_name)
    if task is None:
        if args:
            raise InvalidArguments(
                task_name,
                [f"beat_schedule[{name!r}] gives args by position of a task that is not registered here: give kwargs"],
            )
        return {key: written(value, key) for key, value in kwargs.items()}
    try:
        stored, _ = task.shape.stored(args, kwargs)
    except TypeError as error:
        raise InvalidArguments(
            task_name, [f"beat_schedule[{name!r}]: {error} (it takes {task.shape.signature})"]
        ) from None
    return stored if task.pydantic else {key: written(value, key) for key, value in stored.items()}
