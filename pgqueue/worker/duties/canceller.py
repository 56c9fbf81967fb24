"""The duty that stops jobs whose cancellation was requested."""

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals


class Canceller(Duty):
    """Finds the jobs of this worker whose cancellation was requested: when woken, and a few times in a lease.

    A worker that holds no job sends no statement.
    """

    name = "cancel"

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._queries = core.queries
        self._identity = core.identity
        self._interval = min(core.settings.lease_seconds / 4, 5.0)
        self._signals = signals

    async def step(self) -> float:
        """Find such jobs and stop them."""
        held = self._signals.held_jobs()
        jobs = await self.link.run(self._queries.jobs.cancel_requests(self._identity.id, held)) if held else []
        if jobs:
            self._signals.cancellations_found(jobs)
        return self._interval
