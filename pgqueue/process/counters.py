"""What a process counts of its own work since its start, for metrics: plain numbers, read when somebody asks."""

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from pgqueue.jobs.tally import Count, Key
from pgqueue.process.duty import hide
from pgqueue.timing import monotonic

# Upper bounds of the time that a statement takes, in seconds.
STATEMENT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class Durations:
    """How often a statement took how long: `counts` by upper bound, and one more for those beyond the last."""

    seconds: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(STATEMENT_SECONDS) + 1))

    def note(self, seconds: float) -> None:
        """Count one."""
        self.seconds += seconds
        self.counts[bisect_left(STATEMENT_SECONDS, seconds)] += 1

    def copy(self) -> "Durations":
        """Return the counts as they are now."""
        return Durations(self.seconds, list(self.counts))


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """What a process has done since its start, at one moment. A scheduler has no slots and runs no jobs.

    `ended`: attempts and jobs by task, queue and verb; tasks that the app has not registered are called `unknown`.
    """

    heartbeat_failures: int
    ended: Sequence[tuple[Key, Count]] = ()
    claims: Durations | None = None
    resolves: Durations | None = None
    slots: int | None = None
    busy: int = 0
    stale_writes: int = 0


class LoopLag:
    """Measures for how long the event loop did not turn: by a sleep that should take a quarter of a second."""

    INTERVAL = 0.25
    NOTICED = 0.05  # less is the system's own delay

    def __init__(self) -> None:
        self.blocked_seconds = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Measure from now on."""
        self._task = hide(asyncio.create_task(self._measure()))

    def stop(self) -> None:
        """Measure no more."""
        if self._task is not None:
            self._task.cancel()

    async def _measure(self) -> None:
        while True:
            began = monotonic()
            await asyncio.sleep(self.INTERVAL)
            late = monotonic() - began - self.INTERVAL
            if late > self.NOTICED:
                self.blocked_seconds += late
