"""Looking at everything beside the claims, where it takes long: behind a transaction that pins a million dead rows."""

from collections.abc import Callable, Sequence

from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.process.duty import Duty
from pgqueue.process.heartbeat import Identity
from pgqueue.queries import Queries
from pgqueue.worker.claiming.frontier import Frontier
from pgqueue.worker.claiming.slots import Slots

MOST = 200  # jobs that one look claims
PATIENCE = 120.0  # seconds that it may take


class FullScan(Duty):
    """Claims from the beginning of each lane, on a connection of its own, while others claim beyond the frontier.

    Idle, and without a connection, until the producer finds that a look is due and has become costly.
    """

    name = "look"
    interruptible = True

    def __init__(
        self,
        link: Link,
        queries: Queries,
        identity: Identity,
        slots: Slots,
        frontier: Frontier,
        take: Callable[[Sequence[ClaimedJob]], None],
    ) -> None:
        super().__init__(link)
        self._queries = queries
        self._identity = identity
        self._slots = slots
        self._frontier = frontier
        self._take = take
        self._wanted = False
        self.paused = False
        self.looking = False  # what it claims is the database's word already, and nobody else's yet

    def look(self) -> None:
        """Look now. One look at a time is enough."""
        if not self.looking:
            self._wanted = True
            self.wake()

    async def step(self) -> float:
        """Look, if somebody wants it."""
        wanted, self._wanted = self._wanted, False
        if wanted and not self.paused:
            self.looking = True
            rooms = self._slots.reserve(MOST)
            try:
                if rooms:
                    await self._look(rooms)
            finally:
                self.looking = False
                self._slots.unreserve(rooms)
        return 3600.0

    async def _look(self, rooms: dict[str, int]) -> None:
        room = min(sum(rooms.values()), MOST)
        with self._frontier.look() as look:
            jobs = await self.link.run(self._queries.jobs.claim(self._identity.id, rooms, room), deadline=PATIENCE)
            look.saw_all = len(jobs) < room
        self._slots.unreserve(rooms)
        self._frontier.advance(jobs)
        self._take(jobs)
