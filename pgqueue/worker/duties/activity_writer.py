"""The duty that writes what the worker did, for rates and percentiles."""

import random

from pgqueue.db.link import Link
from pgqueue.jobs.tally import UNKNOWN, Count, Key, Tally
from pgqueue.process.duty import Duty
from pgqueue.worker.core import WorkerCore

INTERVAL = 10.0


class ActivityWriter(Duty):
    """Inserts a row for each task, queue and outcome of which attempts have ended, every ten seconds.

    A worker that is killed loses the counts of ten seconds, and nothing else.
    """

    name = "activity"

    def __init__(self, link: Link, core: WorkerCore) -> None:
        super().__init__(link)
        self._queries = core.queries.activity
        self._identity = core.identity
        self._tasks = core.app.tasks
        self.tally = Tally()
        self._unwritten = Tally()
        self._ever = Tally()

    def ended(self) -> list[tuple[Key, Count]]:
        """Return the counts of all that has ended since the worker started. Whoever enqueues an unregistered task may
        call it anything, so those are counted as one."""
        self._gather()
        return self._ever.counts()

    def _gather(self) -> None:
        fresh = self.tally.take()
        self._unwritten.merge(fresh)
        self._ever.merge(((self._label(task), queue, verb), count) for (task, queue, verb), count in fresh)

    def _label(self, task: str) -> str:
        spec = self._tasks.get(task)
        return UNKNOWN if spec is None else spec.name

    async def step(self) -> float:
        """Write the counts."""
        await self.write()
        return INTERVAL * random.uniform(0.9, 1.1)  # noqa: S311

    async def write(self) -> None:
        """Write the counts now. After a failure they are written with the next ones."""
        self._gather()
        if not self._unwritten:
            return
        taken = self._unwritten.take()
        try:
            await self.link.run(self._queries.record(self._identity.id, taken), deadline=2.0)
        except BaseException:
            self._unwritten.merge(taken)
            raise
