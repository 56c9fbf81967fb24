"""The duty that makes daily partitions ahead of time."""

import random

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries


class PartitionMaker(Duty):
    """Makes the daily partitions of the week ahead; the first time at once."""

    name = "partitions"

    def __init__(self, link: Link, queries: Queries) -> None:
        super().__init__(link)
        self._queries = queries

    async def step(self) -> float:
        """Make the partitions that are missing. The long deadline leaves time for their locks."""
        await self.link.run_long(self._queries.schema.make_partitions(), deadline=60)
        return 3600 * random.uniform(0.5, 1.0)  # noqa: S311
