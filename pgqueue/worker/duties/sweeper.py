"""The duty that expires jobs and prunes idempotency keys. Every worker has it; row locks keep them apart."""

import logging
import random
from datetime import datetime

from pgqueue.db.link import Link
from pgqueue.events import JobExpired
from pgqueue.process.duty import Duty
from pgqueue.timing import monotonic
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

log = logging.getLogger("pgqueue.worker")
BATCH = 500
PAGES = 3  # of keys, a hundred in each
KEYS_SECONDS = 30.0  # between two searches for keys that are free
FROM_START_SECONDS = 60.0  # between two searches that begin at the oldest row, and not where the last one ended


class Sweeper(Duty):
    """Cancels jobs that have expired, and deletes idempotency keys that are free.

    Statements treat both as gone already, so a late sweep changes only what people see.
    """

    name = "sweep"

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._queries = core.queries
        self._interval = min(core.settings.lease_seconds / 3, 10.0)
        self._emit = core.app.listeners.emit
        self._signals = signals
        self._jobs_after: datetime | None = None
        self._keys_after: datetime | None = None
        self._from_start_at = 0.0
        self._keys_at = 0.0

    async def step(self) -> float:
        """Sweep a batch; ask for the next step at once if more may be left."""
        if monotonic() >= self._from_start_at:
            self._jobs_after = self._keys_after = None
            self._from_start_at = monotonic() + FROM_START_SECONDS
        expired = await self.link.run(self._queries.jobs.expire(BATCH, self._jobs_after))
        for job in expired:
            log.info("job %d %s was not started in time: it is cancelled", job.id, job.task)
            self._emit(JobExpired(job.id, job.task, job.queue))
            self._signals.job_moved_unrun(job.task, job.queue, "expire")
        pruned = await self._prune_keys() if monotonic() >= self._keys_at else 0
        if expired:
            self._jobs_after = expired[-1].expires_at
        if len(expired) == BATCH or pruned:
            return 0.0
        return self._interval * random.uniform(0.5, 1.0)  # noqa: S311

    async def _prune_keys(self) -> int:
        pruned = await self.link.run(self._queries.jobs.prune_keys(PAGES, self._keys_after))
        if pruned is not None and pruned.deleted:
            self._keys_after = pruned.at
            return pruned.deleted
        self._keys_at = monotonic() + KEYS_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311
        return 0
