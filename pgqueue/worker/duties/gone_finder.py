"""The duty that looks for jobs that wait for what is gone, and for workflows of which all is gone."""

import logging
import random
from datetime import datetime

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries.workflows.gone import CallPlace, Place
from pgqueue.timing import monotonic
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

log = logging.getLogger("pgqueue.worker")
INTERVAL = 600.0  # between two walks
BATCH = 1000  # jobs, workflows, or calls that one statement looks at
PAUSE = 1.0  # between two statements of a walk, and as many times their cost:
REST = 50


class GoneFinder(Duty):
    """Dooms jobs that wait for what is gone, ends workflows that run without a member, and tells callers of calls that
    have ended untold.

    A job tells of its end in the statement that ends it, and nobody else does: where somebody deletes rows by hand, or
    a process of an older release ends jobs, those that wait would wait for ever. Of all workers one walks: over the
    live jobs of workflows older than an hour, over workflows, and over open calls, batch after batch, each ten minutes.
    """

    name = "gone"

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._queries = core.queries.workflows
        self._identity = core.identity
        self._signals = signals
        self._walks = [self._doom_stuck, self._end_hollow, self._tell_gone]
        self._walk = 0
        self._place = Place()
        self._after: datetime | None = None
        self._call = CallPlace()

    async def step(self) -> float:
        """Look at the next batch: at jobs, when all were looked at at workflows, and then at calls."""
        began = monotonic()
        if not await self._walks[self._walk]():
            self._walk = (self._walk + 1) % len(self._walks)
            if self._walk == 0:
                return INTERVAL * random.uniform(0.8, 1.2)  # noqa: S311
        return PAUSE + REST * (monotonic() - began)

    async def _doom_stuck(self) -> bool:
        """Look at a batch of jobs; return whether more are left."""
        stuck, reached = await self.link.run(self._queries.doom_stuck(self._identity.id, BATCH, self._place))
        for job in stuck:
            log.error(
                "job %d %s of workflow %d waits for what is gone, deleted by hand: it is skipped",
                job.id, job.task, job.workflow,
            )  # fmt: skip
        if stuck:
            self._signals.workflow_moved()
        self._place = Place() if reached is None else Place(reached[2], reached[0])
        return reached is not None

    async def _end_hollow(self) -> bool:
        hollow, reached = await self.link.run(self._queries.end_hollow(self._identity.id, BATCH, self._after))
        for workflow in hollow:
            log.error("workflow %d %r runs, and all of its jobs are gone: it is ended", workflow.id, workflow.name)
        if hollow:
            self._signals.workflow_moved()
        self._after = None if reached is None else reached[2]
        return reached is not None

    async def _tell_gone(self) -> bool:
        untold, reached = await self.link.run(self._queries.tell_gone(self._identity.id, BATCH, self._call))
        for call in untold:
            log.error(
                "job %d, which step %r of job %d has called, ended and told nobody, by an older release or by hand: "
                "its caller goes on", call.id, call.step, call.caller,
            )  # fmt: skip
        self._call = CallPlace() if reached is None else CallPlace(reached[0], reached[1])
        return reached is not None
