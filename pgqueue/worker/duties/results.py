"""Results with a time to live: noted when they are written, dropped when their time is over."""

import random
from collections.abc import Collection, Sequence

from pgqueue import db
from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries
from pgqueue.tasks.registry import Tasks

BATCH = 500
LOOK_SECONDS = 30.0


class ResultTtls:
    """Writes outcomes, and with them when their results expire: in one transaction, where a result does."""

    def __init__(self, queries: Queries, tasks: Tasks) -> None:
        self._queries = queries
        self._ttls = {
            name: spec.result_ttl
            for spec in tasks
            for name in (spec.name, *spec.aliases)
            if spec.result_ttl is not None
        }

    async def resolve(self, link: Link, batch: Sequence[tuple[ClaimedJob, Resolution]]) -> set[int]:
        """Write a batch of outcomes; return the ids of the jobs that moved."""
        query = self._queries.jobs.resolve(batch)
        ttls = self._expiring(batch) if self._ttls else None
        if not ttls:
            return await link.run(query)
        async with link.connection() as conn, conn.transaction():
            moved = await db.run_async(conn, query)
            await db.run_async(
                conn, self._queries.jobs.set_result_expiry({job: ttls[job] for job in moved & ttls.keys()})
            )
            return moved

    def _expiring(self, batch: Sequence[tuple[ClaimedJob, Resolution]]) -> dict[int, float]:
        return {job.id: self._ttls[job.task] for job, told in batch if told.result and job.task in self._ttls}


class ResultPruner(Duty):
    """Drops results whose time is over. Any number of workers may do it."""

    name = "results"

    def __init__(self, link: Link, queries: Queries, tasks: Tasks) -> None:
        super().__init__(link)
        self._queries = queries
        self._every = _pause([spec.result_ttl for spec in tasks if spec.result_ttl is not None])

    async def step(self) -> float:
        """Drop a batch."""
        if await self.link.run(self._queries.jobs.drop_expired_results(BATCH)) == BATCH:
            return 0.0
        return self._every * random.uniform(0.5, 1.0)  # noqa: S311


def _pause(ttls: Collection[float]) -> float:
    """Look more often where results live for seconds."""
    return max(min([*ttls, LOOK_SECONDS]), 1.0)
