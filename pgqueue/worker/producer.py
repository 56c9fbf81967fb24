"""Claiming: keeps the slots full, sleeps when there is nothing, and is woken by NOTIFY or by the clock."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from pgqueue.job import ClaimedJob
from pgqueue.queries import Queries
from pgqueue.service import Identity, Link, Service, monotonic
from pgqueue.worker.slots import Slots

log = logging.getLogger("pgqueue.worker")
BUSY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Diet:
    """What a worker takes: which queues, in which order, and the tasks it knows."""

    queues: tuple[str, ...]
    tasks: tuple[str, ...]


class Producer(Service):
    """Claims as many jobs as there are free slots.

    When a claim comes back short the worker says that it waits, looks once more, and sleeps: until a notification,
    until the next job it knows of is due, at the latest for the poll interval. It goes on saying so while it is
    lightly loaded, and takes it back only when it has been full for a second, so that the flag changes seldom.
    """

    name = "claim"

    def __init__(
        self,
        link: Link,
        queries: Queries,
        identity: Identity,
        slots: Slots,
        diet: Diet,
        poll_seconds: float,
        start: Callable[[ClaimedJob], None],
    ) -> None:
        super().__init__()
        self._link = link
        self._queries = queries
        self._identity = identity
        self._slots = slots
        self._diet = diet
        self._poll = poll_seconds
        self._start = start
        self._said_waiting = False
        self._busy_since: float | None = None
        self._due_at = 0.0  # by the monotonic clock: when the next known job is due
        self._looked_at = 0.0  # and when that was last asked
        self._adopted_at = 0.0

    def slot_freed(self) -> None:
        """Claim again, if the last claim left jobs behind."""
        if self._busy_since is not None or self._slots.limited:
            self.wake()

    def expect(self, delay: float) -> None:
        """Be awake in `delay` seconds: this worker has just put a job back until then."""
        self._due_at = min(self._due_at, monotonic() + delay)
        if delay < self._poll:
            self.wake()

    def forget(self) -> None:
        """Take nothing for known: the identity is new."""
        self._said_waiting = False
        self.wake()

    async def tick(self) -> float:
        """Claim once; return how long to sleep."""
        rooms = self._slots.rooms()
        if not rooms:
            self._busy_since = self._busy_since or monotonic()
            return self._poll
        room = min(self._slots.free, sum(rooms.values()))
        jobs = await self._link.run(self._queries.claim(self._identity.id, rooms, room))
        self._take(jobs)
        if len(jobs) == room:
            return await self._stay_busy()
        if await self._adopt(room - len(jobs)):
            return 0.0
        self._busy_since = None
        if not self._said_waiting:
            await self._say_waiting(True)
            return 0.0  # the last look: what was committed before the flag was set notified nobody
        return await self._until_due()

    def _take(self, jobs: list[ClaimedJob]) -> None:
        for job in jobs:
            self._start(job)

    async def _stay_busy(self) -> float:
        self._busy_since = self._busy_since or monotonic()
        if self._said_waiting and monotonic() - self._busy_since > BUSY_SECONDS:
            await self._say_waiting(False)
        return 0.0 if self._slots.rooms() else self._poll

    async def _adopt(self, room: int) -> int:
        """Take parked jobs of tasks known here: a poll's worth of patience between two looks."""
        if room < 1 or monotonic() - self._adopted_at < self._poll:
            return 0
        jobs = await self._link.run(
            self._queries.adopt(self._identity.id, list(self._slots.rooms()), self._diet.tasks, room)
        )
        self._take(jobs)
        if not jobs:
            self._adopted_at = monotonic()
        return len(jobs)

    async def _say_waiting(self, waiting: bool) -> None:
        await self._link.run(self._queries.set_waiting(self._identity.id, waiting))
        self._said_waiting = waiting

    async def _until_due(self) -> float:
        now = monotonic()
        if now >= min(self._due_at, self._looked_at + self._poll):
            due = await self._link.run(self._queries.next_due(self._diet.queues))
            self._looked_at = monotonic()
            self._due_at = self._looked_at + (self._poll if due is None else due)
        return min(max(self._due_at - monotonic(), 0.0), self._poll)
