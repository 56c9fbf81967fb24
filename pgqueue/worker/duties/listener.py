"""Listening for NOTIFY: a hint that makes pick-up and cancelling fast. Polling is the truth."""

from collections.abc import Callable, Collection

from pgqueue.db.link import DEADLINE, Link
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries
from pgqueue.queries.jobs.cancel import CANCEL_PAYLOAD
from pgqueue.queries.waits import WAIT_PAYLOAD
from pgqueue.queries.workers import RESCUE_PAYLOAD

PING_SECONDS = 30.0


class Listener(Duty):
    """Wakes the producer when a job for one of its queues was committed, the canceller when one is unwanted, the
    rescuer when a worker is known to have died, and the announcer when somebody waits for a job."""

    name = "listen"
    interruptible = True

    def __init__(
        self,
        link: Link,
        queries: Queries,
        queues: Collection[str],
        on_job: Callable[[], None],
        on_cancel: Callable[[], None],
        on_death: Callable[[], None],
        on_wait: Callable[[], None] = lambda: None,
        on_listen: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(link)
        self._queries = queries
        self._queues = frozenset(queues)
        self._on_job = on_job
        self._on_listen = on_listen
        self._said = {CANCEL_PAYLOAD: on_cancel, RESCUE_PAYLOAD: on_death, WAIT_PAYLOAD: on_wait}

    async def step(self) -> float:
        """Listen for a while. The LISTEN is said again each time: it tells whether the connection still lives."""
        async with self.link.connection(PING_SECONDS + DEADLINE) as conn:
            await conn.execute(self._queries.workers.listen().sql)
            self._on_job()  # what was committed while nobody listened
            self._on_listen()
            async for notification in conn.notifies(timeout=PING_SECONDS):
                if notification.payload in self._queues:
                    self._on_job()
                elif notification.payload in self._said:
                    self._said[notification.payload]()
        return 0.0
