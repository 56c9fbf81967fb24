"""Routes: into which queue the jobs of a task go, with which priority and attempts, by its name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

from pgqueue.client.settings import check_max_attempts, check_priority
from pgqueue.config import check_queue
from pgqueue.errors import InvalidOption
from pgqueue.events import name_pattern
from pgqueue.tasks.options import check_names, without_none


class RouteOptions(TypedDict, total=False):
    """What a route gives to tasks that say nothing of it themselves."""

    queue: str
    priority: int
    max_attempts: int


GivenRoutes: TypeAlias = (
    Mapping[str, str] | Mapping[str, str | RouteOptions] | Callable[[str], str | RouteOptions | None]
)


@dataclass(frozen=True, slots=True)
class Route:
    """What one route says, checked. None where it says nothing."""

    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What it says, as options of a task."""
        return without_none({"queue": self.queue, "priority": self.priority, "max_attempts": self.max_attempts})


class Routes:
    """The routes of an app: the first pattern that fits counts, or what a function returns."""

    def __init__(self, given: object) -> None:
        self._choose = given if callable(given) else None
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        if given is None or callable(given):
            return
        if not isinstance(given, Mapping):
            raise InvalidOption(f"routes={given!r:.100} cannot be used: give a dict such as {{'emails.*': 'bulk'}}")
        self._patterns = [(name_pattern("routes", name), _route(route)) for name, route in given.items()]

    def of(self, task: str) -> Route:
        """Return the route of a task. Raises InvalidOption for what a function returns and no route can be."""
        if self._choose is not None:
            return _route(self._choose(task))
        return next((route for pattern, route in self._patterns if pattern.fullmatch(task)), Route())


def _route(given: object) -> Route:
    if given is None:
        return Route()
    if not isinstance(given, Mapping):
        return Route(check_queue(given))
    try:
        check_names(given, RouteOptions.__annotations__, "a route")
    except TypeError as error:
        raise InvalidOption(f"routes: {error}; other options belong to the task or the call") from None
    queue, priority, attempts = (given.get(name) for name in ("queue", "priority", "max_attempts"))
    return Route(
        None if queue is None else check_queue(queue),
        None if priority is None else check_priority(priority),
        None if attempts is None else check_max_attempts(attempts),
    )
