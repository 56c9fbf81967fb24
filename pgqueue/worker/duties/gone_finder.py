"""The duty that looks for jobs of workflows that wait for what is gone, and for workflows of which all is gone."""

import logging
import random
from datetime import datetime

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries.workflows.gone import Place
from pgqueue.timing import monotonic
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

log = logging.getLogger("pgqueue.worker")
INTERVAL = 600.0  # between two walks
BATCH = 1000  # jobs, or workflows, that one statement looks at
PAUSE = 1.0  # between two statements of a walk, and as many times their cost:
REST = 50


class GoneFinder(Duty):
    """Dooms jobs that wait for what is gone, and ends workflows that run without a member.

    A job tells of its end in the statement that ends it, and nobody else does: where somebody deletes rows by hand,
    those that wait would wait for ever. Of all workers one walks: over the live jobs of workflows older than an hour,
    batch after batch, each ten minutes.
    """

    name = "gone"

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._queries = core.queries.workflows
        self._identity = core.identity
        self._signals = signals
        self._place: Place | None = Place()
        self._after: datetime | None = None

    async def step(self) -> float:
        """Look at the next batch: at jobs, and when all were looked at, at workflows."""
        began = monotonic()
        over = await self._end_hollow() if self._place is None else await self._doom_stuck(self._place)
        if over:
            return INTERVAL * random.uniform(0.8, 1.2)  # noqa: S311
        return PAUSE + REST * (monotonic() - began)

    async def _doom_stuck(self, place: Place) -> bool:
        stuck, reached = await self.link.run(self._queries.doom_stuck(self._identity.id, BATCH, place))
        for job in stuck:
            log.error(
                "job %d %s of workflow %d waits for what is gone, deleted by hand: it is skipped",
                job.id, job.task, job.workflow,
            )  # fmt: skip
        if stuck:
            self._signals.workflow_moved()
        self._place = None if reached is None else Place(reached[2], reached[0])
        return False

    async def _end_hollow(self) -> bool:
        hollow, reached = await self.link.run(self._queries.end_hollow(self._identity.id, BATCH, self._after))
        for workflow in hollow:
            log.error("workflow %d %r runs, and all of its jobs are gone: it is ended", workflow.id, workflow.name)
        if hollow:
            self._signals.workflow_moved()
        self._after = None if reached is None else reached[2]
        if self._after is None:
            self._place = Place()
        return self._after is None
