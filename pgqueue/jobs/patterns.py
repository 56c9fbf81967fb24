"""Patterns of queues, such as `tenant-*`: names in which each `*` stands for any characters, also none."""

import re
from collections.abc import Iterable


def is_pattern(queue: str) -> bool:
    """Whether this is a pattern, and not the name of one queue."""
    return "*" in queue


class Patterns:
    """The patterns among the queues that a worker was given, in their order. A queue given by name matches none."""

    def __init__(self, queues: Iterable[str]) -> None:
        given = tuple(queues)
        self._names = frozenset(queue for queue in given if not is_pattern(queue))
        self._expressions = {queue: _expression(queue) for queue in given if is_pattern(queue)}

    def __bool__(self) -> bool:
        return bool(self._expressions)

    def match(self, queue: str) -> str | None:
        """Return the first pattern that a queue matches; None if it matches none, or was given by name."""
        if queue in self._names:
            return None
        return next((pattern for pattern, is_like in self._expressions.items() if is_like.fullmatch(queue)), None)


def serves(given: Iterable[str], queue: str) -> bool:
    """Whether a worker that was given these queues serves this one, by its name or by a pattern."""
    names = tuple(given)
    return queue in names or Patterns(names).match(queue) is not None


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
