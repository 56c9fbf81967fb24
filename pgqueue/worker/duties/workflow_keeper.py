"""The duty that ends the jobs of workflows that will not run, and settles workflows that have ended."""

import random

from pgqueue.db.link import Link
from pgqueue.events import WaitingJobCancelled
from pgqueue.process.duty import Duty
from pgqueue.queries import Query
from pgqueue.queries.jobs.ties import SKIPPED, TiedEnds
from pgqueue.timing import monotonic
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

BATCH = 500  # jobs that one statement ends or tells
GROUPS = 100  # workflows and groups that one statement settles
LIVING_SECONDS = 1.0  # between two looks while a workflow lives
INTERVAL = 15.0  # while none does
REST = 20  # times the cost of a look: among doomed rows that a long transaction keeps, a look walks over dead entries


class WorkflowKeeper(Duty):
    """Ends doomed jobs and those of stopped workflows, settles workflows and groups that have ended, and tells children
    that were added late.

    The statement that ends a job moves its children, so a job that can run waits for no step of this duty, but for
    callbacks of groups. The worker whose statement left something to do is woken at once; what a worker leaves that
    dies is found by any other: the rows say what is to be done, and locks keep workers apart.
    """

    name = "workflows"

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._queries = core.queries.workflows
        self._listeners = core.app.listeners
        self._signals = signals

    async def step(self) -> float:
        """Do a batch of each kind; ask for the next step at once if more may be left."""
        began = monotonic()
        look = await self.link.run(self._queries.look())
        cost = monotonic() - began
        moved = False
        if look.late:
            await self.link.run(self._queries.mark_late(BATCH))
            moved |= await self._do(self._queries.tell_late(BATCH))
        if look.stopping:
            moved |= await self._do(self._queries.stop(BATCH))
        if look.doomed:
            moved |= await self._do(self._queries.cascade(BATCH))
        if look.unsettled:
            moved |= await self._do(self._queries.settle(GROUPS))
        if moved:
            return 0.0
        delay = (LIVING_SECONDS if look.living else INTERVAL) * random.uniform(0.5, 1.0)  # noqa: S311
        return max(delay, REST * cost)

    async def _do(self, query: Query[TiedEnds]) -> bool:
        ends = await self.link.run(query)
        if ends.ready:
            self._signals.job_committed()
        for job in ends.cancelled:
            self._signals.job_moved_unrun(job.task, job.queue, "skip" if job.reason == SKIPPED else "cancel")
            if self._listeners:
                self._listeners.emit(WaitingJobCancelled(*job))
        return bool(ends.moved)
