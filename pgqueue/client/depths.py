"""How deep the queues with a `max_depth` are."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pgqueue.errors import QueueFull

FRESH_SECONDS, FRESH_WHEN_FULL = 1.0, 0.1  # how long a depth that was read counts; of a full queue, less long


@dataclass(slots=True)
class _Depth:
    jobs: int
    read_at: float


class Depths:
    """How many jobs wait in the queues with a `max_depth`, as far as this process knows.

    A depth is read once a second, and ten times a second while the queue seems full; in between only the jobs that this
    process enqueues are added. Other queues are not counted.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = limits
        self._depths: dict[str, _Depth] = {}

    def limit_to_read(self, queue: str, more: int) -> int | None:
        """Return the limit of a queue whose depth must be read before so many more jobs are added; else None."""
        limit = self._limits.get(queue)
        if limit is None:
            return None
        depth = self._depths.get(queue)
        if depth is None:
            return limit
        fresh = FRESH_WHEN_FULL if depth.jobs + more > limit else FRESH_SECONDS
        return limit if time.monotonic() - depth.read_at > fresh else None

    def note(self, queue: str, jobs: int) -> None:
        """Note a depth that was just read."""
        self._depths[queue] = _Depth(jobs, time.monotonic())

    def add(self, queue: str, more: int) -> None:
        """Add so many jobs. Raises QueueFull if they do not fit."""
        limit = self._limits.get(queue)
        if limit is None:
            return
        depth = self._depths[queue]
        if depth.jobs + more > limit:
            raise QueueFull(queue, depth.jobs, limit)
        depth.jobs += more
