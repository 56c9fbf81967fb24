"""Sweeping: cancels jobs that expired, prunes idempotency keys. Every worker does it; row locks keep them apart."""

import logging
import random
from collections.abc import Callable
from datetime import datetime

from pgqueue.db.link import Link
from pgqueue.events import Event, JobExpired
from pgqueue.process.duty import Duty
from pgqueue.process.heartbeat import Identity
from pgqueue.queries import Queries
from pgqueue.timing import monotonic

log = logging.getLogger("pgqueue.worker")
BATCH = 500
PAGES = 3  # of keys, a hundred in each
KEYS_SECONDS = 30.0  # between looks for keys that are free
FROM_THE_LEFT = 60.0  # seconds between looks at all that is over, and not only at what is since the last look


class Sweeper(Duty):
    """Makes known what has expired, and deletes keys that are free. Being late changes nothing but what is shown."""

    name = "sweep"

    def __init__(self, link: Link, queries: Queries, identity: Identity, emit: Callable[[Event], None]) -> None:
        super().__init__(link)
        self._queries = queries
        self._interval = min(identity.info.lease_seconds / 3, 10.0)
        self._emit = emit
        self._jobs_after: datetime | None = None
        self._keys_after: datetime | None = None
        self._from_left_at = 0.0
        self._keys_at = 0.0

    async def step(self) -> float:
        """Sweep a batch; at once the next one if there is more."""
        if monotonic() >= self._from_left_at:
            self._jobs_after = self._keys_after = None
            self._from_left_at = monotonic() + FROM_THE_LEFT
        expired = await self.link.run(self._queries.jobs.expire(BATCH, self._jobs_after))
        for job in expired:
            log.info("job %d %s was not started in time: it is cancelled", job.id, job.task)
            self._emit(JobExpired(job.id, job.task, job.queue))
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
