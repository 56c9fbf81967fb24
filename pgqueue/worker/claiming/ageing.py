"""Ageing: one claim in sixteen takes the jobs that have waited longest, so that no queue or priority waits for ever."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.base import Query
from pgqueue.timing import monotonic
from pgqueue.worker.claiming.frontier import SCAN_SHARE, Cost, Frontier
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

CLAIMS = 16  # of which one takes the jobs that have waited longest
Run: TypeAlias = Callable[[Query[list[ClaimedJob]]], Awaitable[list[ClaimedJob]]]


class Ageing:
    """Counts claims, and makes the one that takes jobs which are due for longer than `max_wait`.

    A worker without `max_wait` makes none. Like a full scan, such a claim reads lanes from their beginning, and is due
    again after so many times its own duration: while a transaction pins a million dead rows that is some seconds.
    """

    def __init__(
        self, core: WorkerCore, signals: WorkerSignals, frontier: Frontier, now: Callable[[], float] = monotonic
    ) -> None:
        self._claim_oldest = core.queries.jobs.claim_oldest
        self._identity = core.identity
        self._max_wait = core.settings.max_wait
        self._signals = signals
        self._frontier = frontier
        self._now = now
        self._claims = 0
        self._due_at = 0.0
        self._cost = Cost()

    def due(self) -> bool:
        """Whether the claim that begins now takes the oldest jobs first."""
        if self._max_wait is None:
            return False
        self._claims += 1
        return self._claims >= CLAIMS and self._now() >= self._due_at

    async def claim(self, run: Run, rooms: Mapping[str, int], room: int) -> int:
        """Claim up to `room` of the oldest jobs, by a connection's `run`; return how many came."""
        if self._max_wait is None or room <= 0 or not rooms:
            return 0
        began = self._now()
        try:
            jobs = await run(self._claim_oldest(self._identity.id, rooms, room, self._max_wait))
        finally:
            self._claims = 0
            self._due_at = self._now() + SCAN_SHARE * self._cost.note(self._now() - began)
        self._signals.claim_took(self._now() - began)
        self._frontier.advance(jobs)
        self._signals.jobs_claimed(jobs)
        return len(jobs)
