"""Results with a time to live: when each expires is written together with its job's outcome."""

from collections.abc import Sequence

from pgqueue import db
from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.queries import Queries
from pgqueue.tasks.registry import Tasks


class ResultTtls:
    """Writes outcomes and, in the same transaction, when their results expire, for tasks with a `result_ttl`."""

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
        if not self._ttls or not self._ttls_of(batch):
            return await link.run(self._queries.jobs.resolve(batch))
        async with link.connection() as conn, conn.transaction():
            return await self.resolve_on(conn, batch)

    async def resolve_on(self, conn: db.AsyncConnection, batch: Sequence[tuple[ClaimedJob, Resolution]]) -> set[int]:
        """Write a batch of outcomes in the transaction of a connection; return the ids of the jobs that moved."""
        moved = await db.run_async(conn, self._queries.jobs.resolve(batch))
        if ttls := self._ttls_of(batch):
            expiries = {job: ttls[job] for job in moved & ttls.keys()}
            await db.run_async(conn, self._queries.jobs.set_result_expiry(expiries))
        return moved

    def _ttls_of(self, batch: Sequence[tuple[ClaimedJob, Resolution]]) -> dict[int, float]:
        return {job.id: self._ttls[job.task] for job, end in batch if end.result and job.task in self._ttls}
