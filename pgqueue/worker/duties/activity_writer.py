"""The duty that writes what the worker did, for rates and percentiles."""

import random

from pgqueue.db.link import Link
from pgqueue.jobs.tally import Tally
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
        self.tally = Tally()

    async def step(self) -> float:
        """Write the counts."""
        await self.write()
        return INTERVAL * random.uniform(0.9, 1.1)  # noqa: S311

    async def write(self) -> None:
        """Write the counts now. After a failure they are written with the next ones."""
        if not self.tally:
            return
        taken = self.tally.take()
        try:
            await self.link.run(self._queries.record(self._identity.id, taken), deadline=2.0)
        except BaseException:
            self.tally.put_back(taken)
            raise
