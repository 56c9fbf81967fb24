"""The duty that expires results: it drops each when its time to live has passed."""

import random
from collections.abc import Collection

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries
from pgqueue.tasks.registry import Tasks

BATCH = 500
MAX_PAUSE = 30.0


class ResultExpirer(Duty):
    """Drops results that have expired. Any number of workers may do it at the same time."""

    name = "results"

    def __init__(self, link: Link, queries: Queries, tasks: Tasks) -> None:
        super().__init__(link)
        self._queries = queries
        self._pause = _pause([spec.result_ttl for spec in tasks if spec.result_ttl is not None])

    async def step(self) -> float:
        """Drop a batch."""
        if await self.link.run(self._queries.jobs.drop_expired_results(BATCH)) == BATCH:
            return 0.0
        return self._pause * random.uniform(0.5, 1.0)  # noqa: S311


def _pause(ttls: Collection[float]) -> float:
    """Return the seconds between two steps: fewer where results live for seconds."""
    return max(min([*ttls, MAX_PAUSE]), 1.0)
