"""Routes: what `conf.task_routes` gives to a task by its name, and to a call."""

import fnmatch
import importlib
import re
from collections.abc import Mapping
from typing import Any

from pgqueue.celery.conf import Settings, warn
from pgqueue.celery.options import NO_PLACE, CallOptions
from pgqueue.errors import ConfigError

OF_CALLS = ("queue", "priority", "expires", "countdown")
OF_TASKS = ("time_limit", "soft_time_limit")  # a limit belongs to the task here, and is taken as it is registered
ADDRESS = ("routing_key", "exchange", "exchange_type")


def route_of(conf: Settings, task: str, args: Any = (), kwargs: Any = None) -> dict[str, Any]:
    """Return what the first route says that fits, in Celery's words: OF_CALLS and OF_TASKS; nothing where none fits.

    A route is a dict of patterns, a list of pairs, a function, the path of one, or a list of these. A `routing_key`
    leads to the queue of `conf.task_queues` that has it. What has no place here is warned of by its name. Raises
    ConfigError for what is no route."""
    for each in _listed(conf.task_routes):
        route = dict_of_pairs(each) if isinstance(each, (list, tuple)) else each
        route = _imported(route) if isinstance(route, str) else route
        if hasattr(route, "route_for_task"):  # a router as an object, as in Celery 3
            found = route.route_for_task(task, args, kwargs or {})
        elif callable(route):
            found = route(task, args, kwargs or {}, {}, task=None)
        else:
            found = _by_pattern(route, task)
        if found is not None:
            return _options_of(conf, task, found)
    return {}


def _imported(path: str) -> Any:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"conf.task_routes: {path!r:.200} is no function that can be imported: {error}") from None


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


def _options_of(conf: Settings, task: str, found: Any) -> dict[str, Any]:
    if isinstance(found, str):
        return {"queue": found}
    if not isinstance(found, Mapping):
        raise ConfigError(f"conf.task_routes: {found!r:.100} for {task} cannot be used: give a queue")
    options = {name: found[name] for name in (*OF_CALLS, *OF_TASKS) if found.get(name) is not None}
    address = {name: found[name] for name in ADDRESS if found.get(name) is not None}
    if "queue" in options:
        options["queue"] = _name(options["queue"])
    elif address:
        queue = _queue_with(conf.task_queues, address)
        if queue is None:
            warn(
                f"conf.task_routes: {' and '.join(address)} of {task} mean nothing here: no queue of conf.task_queues "
                "has them, and jobs go to a queue by its name: give queue="
            )
        else:
            options["queue"] = queue
    for name in found:
        if name not in (*OF_CALLS, *OF_TASKS, *ADDRESS):
            warn(f"conf.task_routes: {name}= of {task} means nothing here: use {_instead(name)}")
    return options


def _queue_with(queues: Any, address: Mapping[str, Any]) -> str | None:
    """Return the queue that is bound to an address: by its routing key, and its exchange where the route names one."""
    if "routing_key" not in address and address.get("exchange") is None:
        return None
    for name, queue in queues.items() if isinstance(queues, Mapping) else [(None, each) for each in queues or ()]:
        has = queue if isinstance(queue, Mapping) else vars(queue) if hasattr(queue, "__dict__") else {}
        key, exchange = has.get("routing_key"), _name(has.get("exchange"))
        wanted = _name(address.get("exchange"))
        if ("routing_key" not in address or key == address["routing_key"]) and wanted in (None, exchange):
            return name or _name(queue)
    return None


def _name(given: Any) -> str | None:
    """Return the name of a queue or an exchange: a text, or an object of kombu."""
    name = getattr(given, "name", given)
    return None if name is None else str(name)


def _instead(name: str) -> str:
    return NO_PLACE.get(
        name, f"{name}= in the call, if at all" if name in CallOptions.__annotations__ else "no such option"
    )
