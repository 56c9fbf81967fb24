"""The duty that keeps the counters of limits right, and does what rules say of jobs behind a full bucket."""

import logging
import random
from collections.abc import Sequence

from pgqueue import db
from pgqueue.db.link import Link
from pgqueue.events import LimitReconciled, WaitingJobCancelled
from pgqueue.process.duty import Duty
from pgqueue.queries.turns.full import FullLane
from pgqueue.timing import monotonic
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

log = logging.getLogger("pgqueue.worker")
RECONCILE_SECONDS = 20.0  # between two looks for counters that differ from what runs
IDLE_SECONDS = 60.0  # between two looks for buckets that nobody needs
BATCH = 500


class LimitKeeper(Duty):
    """Rests until the producer has found metered jobs: a database without them is asked nothing.

    A counter changes only with the row of a job, in one statement, so that it is right after every crash. It differs
    only after somebody's hand, or a worker of an older release, has removed a running job; then it is put right.
    """

    name = "limits"

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._queries = core.queries.turns
        self._emit = core.app.listeners.emit
        self._signals = signals
        self._full: dict[FullLane, None] = {}
        self._needed = False
        self._reconcile_at = self._drop_at = 0.0

    def metered_found(self, full: Sequence[FullLane]) -> None:
        """Note that there are metered jobs, and which lanes a rule wants something done about."""
        self._full.update(dict.fromkeys(full))
        if full or not self._needed:
            self._needed = True
            self.wake()

    async def step(self) -> float:
        """Do what the rules of full buckets say, and reconcile counters from time to time."""
        full, self._full = self._full, {}
        for lane in full:
            await self._act(lane)
        if not self._needed:
            return 3600.0
        if monotonic() >= self._reconcile_at:
            await self._reconcile()
            self._reconcile_at = monotonic() + RECONCILE_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311
            self._needed = False  # until the producer says so again
        if monotonic() >= self._drop_at:
            await self.link.run(self._queries.drop_idle_buckets(BATCH))
            self._drop_at = monotonic() + IDLE_SECONDS
        return max(self._reconcile_at - monotonic(), 0.0)

    async def _act(self, full: FullLane) -> None:
        if full.policy == "cancel_running":
            for job in await self.link.run(self._queries.cancel_holders(full)):
                log.info("job %d %s is asked to stop: a newer one waits for %s", job.id, job.task, full.bucket)
            return
        cancelled = await self.link.run(self._queries.cancel_behind(full, BATCH))
        for job in cancelled:
            log.info("job %d %s is cancelled: %s", job.id, job.task, full.reason)
            self._emit(WaitingJobCancelled(job.id, job.task, job.queue, full.reason))
            self._signals.job_moved_unrun(job.task, job.queue, "skip")
        if len(cancelled) == BATCH:
            self._full[full] = None
            self.wake()

    async def _reconcile(self) -> None:
        for bucket in await self.link.run(self._queries.find_drift(BATCH)):
            async with self.link.connection() as conn, conn.transaction():
                await db.run_async(conn, self._queries.lock_bucket(bucket))
                drift = await db.run_async(conn, self._queries.reconcile(bucket))
            if drift is not None:
                log.warning("the counter of %s said %d and is %d now, as many as run", bucket, *drift)
                self._emit(LimitReconciled(bucket, drift.counted, drift.running))
