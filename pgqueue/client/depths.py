"""How deep the queues with a `max_depth` are."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pgqueue.db.steps import Steps
from pgqueue.errors import QueueFull
from pgqueue.queries import Queries

LATER, SOON = 1.0, 0.1  # seconds for which a depth is believed: of a queue with room, of a full one


@dataclass(slots=True)
class _Seen:
    depth: int
    at: float


class Depths:
    """How deep the queues with a `max_depth` are, as far as this process knows.

    A depth is looked up once a second, and ten times a second when the queue seems full; in between only what this
    process puts in is added. Nothing is counted for other queues.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = limits
        self._seen: dict[str, _Seen] = {}

    def steps(self, queries: Queries, queue: str, more: int) -> Steps[None]:
        """Raise QueueFull if so many more jobs do not fit into a queue."""
        limit = self._limits.get(queue)
        if limit is None:
            return
        seen = self._seen.get(queue)
        if seen is None or time.monotonic() - seen.at > (SOON if seen.depth + more > limit else LATER):
            depth = yield queries.jobs.depth(queue, limit)
            seen = self._seen[queue] = _Seen(depth, time.monotonic())
        if seen.depth + more > limit:
            raise QueueFull(queue, seen.depth, limit)
        seen.depth += more
