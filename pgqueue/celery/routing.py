"""Routes: the queue of a task by its name, from `conf.task_routes`."""

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

from pgqueue.errors import ConfigError, InvalidOption


def queue_by_routes(routes: Any, task: str, args: Any, kwargs: Any) -> str | None:
    """Return the queue that the first route gives which fits; None where none does.

    A route is a dict of patterns, a list of pairs, a function, or a list of these. Raises InvalidOption for a route to
    an exchange, which has no place here, and ConfigError for what is no route."""
    for each in _listed(routes):
        route = dict_of_pairs(each) if isinstance(each, (list, tuple)) else each
        found = route(task, args, kwargs or {}, {}, task=None) if callable(route) else _by_pattern(route, task)
        if found is not None:
            return _queue_of(task, found)
    return None


def _listed(routes: Any) -> list[Any]:
    if not routes:
        return []
    if isinstance(routes, (list, tuple)):
        pairs = all(isinstance(each, (list, tuple)) and len(each) == 2 for each in routes)
        return [dict_of_pairs(routes)] if pairs else list(routes)
    return [routes]


def dict_of_pairs(pairs: Any) -> dict[Any, Any]:
    """Return pairs of a pattern and a route as a dict."""
    return dict(tuple(pair) for pair in pairs)


def _by_pattern(route: Any, task: str) -> Any:
    if not isinstance(route, Mapping):
        raise ConfigError(f"conf.task_routes: {route!r:.100} is no route: give a dict of patterns, or a function")
    for pattern, found in route.items():
        if isinstance(pattern, re.Pattern):
            if pattern.match(task):
                return found
        elif pattern == task or fnmatch.fnmatchcase(task, pattern):
            return found
    return None


def _queue_of(task: str, found: Any) -> str | None:
    if isinstance(found, str):
        return found
    if not isinstance(found, Mapping):
        raise ConfigError(f"conf.task_routes: {found!r:.100} for {task} cannot be used: give a queue")
    wrong = [name for name in found if name not in ("queue", "routing_key")]
    if wrong or "queue" not in found:
        raise InvalidOption(
            f"conf.task_routes: the route of {task} has {wrong[0] if wrong else 'no queue'}: give {{'queue': …}}; "
            "priority and others belong to the task or the call"
        )
    return str(getattr(found["queue"], "name", found["queue"]))
