"""The duty that stops jobs whose cancellation was requested."""

from collections.abc import Callable

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.process.heartbeat import Identity
from pgqueue.queries import Queries


class Canceller(Duty):
    """Finds the jobs of this worker that somebody wants cancelled: when it is woken, and a few times in a lease.

    A worker that holds no job asks nothing.
    """

    name = "cancel"

    def __init__(
        self,
        link: Link,
        queries: Queries,
        identity: Identity,
        cancel: Callable[[list[int]], object],
        held: Callable[[], list[int]],
    ) -> None:
        super().__init__(link)
        self._queries = queries
        self._identity = identity
        self._cancel = cancel
        self._held = held

    async def step(self) -> float:
        """Look once."""
        held = self._held()
        jobs = await self.link.run(self._queries.jobs.cancel_requests(self._identity.id, held)) if held else []
        if jobs:
            self._cancel(jobs)
        return min(self._identity.info.lease_seconds / 4, 5.0)
