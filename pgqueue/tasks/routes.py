"""Routes: into which queue the jobs of a task go, by its name."""

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from pgqueue.config import check_queue
from pgqueue.errors import InvalidOption
from pgqueue.events import name_pattern

GivenRoutes: TypeAlias = Mapping[str, str] | Callable[[str], str | None]


class Routes:
    """The queues of tasks that name none themselves: of the first pattern that fits, or what a function returns."""

    def __init__(self, given: object, default: str) -> None:
        self._default = default
        self._choose = given if callable(given) else None
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        if given is None or callable(given):
            return
        if not isinstance(given, Mapping):
            raise InvalidOption(f"routes={given!r:.100} cannot be used: give a dict such as {{'emails.*': 'bulk'}}")
        self._patterns = [(name_pattern("routes", name), check_queue(queue)) for name, queue in given.items()]

    def queue(self, task: str) -> str:
        """Return the queue of a task. Raises InvalidOption for a name that a function makes and no queue can have."""
        if self._choose is not None:
            chosen = self._choose(task)
            return self._default if chosen is None else check_queue(chosen)
        return next((queue for pattern, queue in self._patterns if pattern.fullmatch(task)), self._default)
