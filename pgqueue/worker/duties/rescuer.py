"""The duty that rescues the running jobs of dead workers. Every worker has it; row locks keep them apart."""

import logging
import random

from pgqueue import db
from pgqueue.db.failures import DATABASE_ERRORS, blames_data, brief
from pgqueue.db.link import Link
from pgqueue.error_info import ErrorInfo
from pgqueue.events import JobDeadLettered, JobRescued
from pgqueue.jobs.fingerprint import of_crash
from pgqueue.jobs.job import JobState
from pgqueue.process.duty import Duty
from pgqueue.queries.jobs.rescue import RescuedJob
from pgqueue.timing import monotonic
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

log = logging.getLogger("pgqueue.worker")
BATCH = 500
VERBS = {
    JobState.PENDING: "rescue",
    JobState.BLOCKED: "rescue",  # a metered job waits for its turn again
    JobState.FAILED: "rescue_spent",
    JobState.CANCELLED: "rescue_cancelled",
}
SHOWN = 20  # ids in a line of the log


class Rescuer(Duty):
    """Declares workers lost that have stopped beating, and puts their jobs back.

    For the length of a lease after its start, and after it could not reach the database itself, it declares no worker
    lost: after an outage the others may have come back without having beaten yet.
    """

    name = "rescue"

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._queries = core.queries
        self._identity = core.identity
        self._lease = core.settings.lease_seconds
        self._max_crashes = core.app.max_crashes
        named = [(name, spec) for spec in core.app.tasks for name in (spec.name, *spec.aliases)]
        self._limits = {name: spec.max_crashes for name, spec in named}
        self._targets = core.app.tasks.dead_letter_targets(core.app.queue)
        self._signals = signals
        self._emit = core.app.listeners.emit
        self._declare_from = monotonic() + self._lease
        self._forget_at = 0.0

    async def step(self) -> float:
        """Rescue once."""
        try:
            if monotonic() >= self._declare_from:
                await self._declare_lost()
            if await self._rescue() == BATCH:
                return 0.0
            if monotonic() >= self._forget_at:
                await self.link.run(self._queries.workers.delete_lost())
                self._forget_at = monotonic() + self._lease
        except DATABASE_ERRORS:
            self._declare_from = monotonic() + self._lease
            raise
        delay = self._lease / 3 * random.uniform(0.8, 1.2)  # noqa: S311
        quiet = self._declare_from - monotonic()  # no longer: jobs of a lost worker wait for the end of it
        return min(delay, quiet) if quiet > 0 else delay

    async def _declare_lost(self) -> None:
        for lost in await self.link.run(self._queries.workers.declare_lost()):
            log.warning("%s %s (%s, pid %d) has stopped beating and is lost", lost.kind, lost.id, lost.host, lost.pid)

    async def _rescue(self) -> int:
        try:
            rescued = await self._take()
        except Exception as error:
            if not blames_data(error):
                raise
            rescued = await self._one_by_one()
        for job in rescued:
            self._emit(JobRescued(job.id, job.state))
            if job.state == JobState.FAILED:
                self._emit(_dead_lettered(job))
        for state in sorted({job.state for job in rescued}):
            ids = [job.id for job in rescued if job.state == state]
            log.warning("jobs taken from lost workers that are %s now: %s", state, _few(ids))
        for job in rescued:
            self._signals.job_moved_unrun(job.task, job.queue, VERBS[job.state])
        if rescued:
            self._signals.jobs_rescued()
        return len(rescued)

    async def _one_by_one(self) -> list[RescuedJob]:
        """Rescue each job in a statement of its own, after one row has failed that of its batch."""
        rescued: list[RescuedJob] = []
        for job in await self.link.run(self._queries.jobs.rescuable(BATCH)):
            try:
                rescued += await self._take(job)
            except Exception as error:
                if not blames_data(error):
                    raise
                log.error("job %d of a lost worker cannot be rescued: %s: %s", job, type(error).__name__, brief(error))
        return rescued

    async def _take(self, only: int | None = None) -> list[RescuedJob]:
        """Take jobs from dead workers; in the same transaction enqueue the dead-letter tasks of those that end, and
        undo what their steps have done."""
        jobs = self._queries.jobs
        async with self.link.connection() as conn, conn.transaction():
            query = jobs.rescue(self._identity.id, self._max_crashes, self._limits, BATCH, only)
            rescued = await db.run_async(conn, query)
            if dead := [job.id for job in rescued if job.state == JobState.FAILED]:
                await db.run_async(conn, jobs.enqueue_dead_letter_tasks(dead, self._targets))
            if ended := [job for job in rescued if job.state.is_terminal]:
                await db.run_async(conn, self._queries.steps.compensate(ended))
        return rescued


def _dead_lettered(job: RescuedJob) -> JobDeadLettered:
    error = ErrorInfo("pgqueue.WorkerLost", job.why)
    return JobDeadLettered(
        job.id, job.task, job.queue, job.attempt, job.lease, job.worker_id, "crashed", error, of_crash(job.task)
    )


def _few(ids: list[int]) -> str:
    """Return ids as text: how many there are, where that is more than a line of the log should have."""
    shown = ", ".join(map(str, ids[:SHOWN]))
    return shown if len(ids) <= SHOWN else f"{shown} and {len(ids) - SHOWN} more"
