"""The duty that finds queues for patterns such as `tenant-*`. A worker without patterns does not have it."""

import logging
from uuid import UUID

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.timing import monotonic
from pgqueue.worker.claiming.frontier import SCAN_SHARE, Cost, Frontier
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

log = logging.getLogger("pgqueue.worker")
MOST_READ = 1000  # names of queues in one step
MOST_READY, MOST_PARKED = 200, 100  # of those that match, are served at a time: a claim looks into each
POLLS = 2  # poll intervals between two steps
KEEP_SECONDS = 60.0  # a queue without pending jobs is served so much longer: its running ones may be retried


class QueueFinder(Duty):
    """Serves the queues that match the worker's patterns and have pending jobs, or parked ones of tasks known here.

    It reads the names of queues every two poll intervals, and at once when a notification names a new one; less often
    where that takes long. The worker's row gets the names, so that the next job of such a queue notifies this worker.
    Where more queues match than it serves at a time, each step goes on behind the last one.
    """

    name = "find queues"

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals, frontier: Frontier) -> None:
        super().__init__(link)
        self._core = core
        self._signals = signals
        self._frontier = frontier
        self._pause = POLLS * core.settings.poll_seconds
        self._cost = Cost()
        self._after = ""  # the queue behind which the next step begins
        self._seen: dict[str, float] = {}  # when each queue was last seen, the latest last
        self._written: tuple[UUID, tuple[str, ...]] | None = None  # which row has which names

    async def step(self) -> float:
        """Read names of queues; serve those that match."""
        core, began = self._core, monotonic()
        served = core.served
        query = core.queries.jobs.find_queues(self._after, MOST_READ, served.tasks)
        found = await self.link.run(query)
        cost = self._cost.note(monotonic() - began)
        ready = list(filter(served.patterns.match, found.ready))
        if len(ready) > MOST_READY:
            self._after = ready[MOST_READY - 1]
        else:
            self._after = found.ready[-1] if len(found.ready) == MOST_READ else ""
        parked = list(filter(served.patterns.match, found.parked))
        await self._serve([*ready[:MOST_READY], *parked[:MOST_PARKED]])
        return max(self._pause, SCAN_SHARE * cost)

    async def _serve(self, queues: list[str]) -> None:
        now, slots = monotonic(), self._core.slots
        for queue in queues:
            self._seen.pop(queue, None)
            self._seen[queue] = now
        recent = [queue for queue, at in self._seen.items() if now - at < KEEP_SECONDS]
        recent = recent[-(MOST_READY + MOST_PARKED) :]
        self._seen = {queue: self._seen[queue] for queue in recent}
        new = set(recent).difference(slots.queues)
        names = tuple(sorted(recent))
        slots.serve(names)
        self._frontier.keep(slots.queues)
        if new:
            log.debug("queues that match a pattern: %s", ", ".join(sorted(new)))
            self._frontier.request_scan()
            self._signals.job_committed()
        await self._write(names)

    async def _write(self, names: tuple[str, ...]) -> None:
        """Write the names to the worker's row, if it has others or is a new one."""
        row = (self._core.identity.id, names)
        if row != self._written:
            queues = [*self._core.served.queues, *names]
            await self.link.run(self._core.queries.workers.set_queues(row[0], queues))
            self._written = row
            self._signals.job_committed()  # a job that was committed before this has notified no worker
