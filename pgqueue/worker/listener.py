"""Listening for NOTIFY: a hint that makes pick-up fast. Polling is the truth."""

from collections.abc import Callable, Collection

from pgqueue.queries import Queries
from pgqueue.service import Link, Service

PING_SECONDS = 30.0


class Listener(Service):
    """Wakes the producer when a job for one of its queues was committed."""

    name = "listen"
    interruptible = True

    def __init__(self, link: Link, queries: Queries, queues: Collection[str], wake: Callable[[], None]) -> None:
        super().__init__()
        self._link = link
        self._queries = queries
        self._queues = frozenset(queues)
        self._wake_producer = wake

    async def tick(self) -> float:
        """Listen for a while. The LISTEN is said again each time: it tells whether the connection still lives."""
        async with self._link.connection() as conn:
            await conn.execute(self._queries.listen().sql)
            self._wake_producer()  # what was committed while nobody listened
            async for notification in conn.notifies(timeout=PING_SECONDS):
                if notification.payload in self._queues:
                    self._wake_producer()
        return 0.0
