"""Room for running jobs."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pgqueue.context import Signals
from pgqueue.errors import InvalidOption, UnknownQueue
from pgqueue.job import ClaimedJob


@dataclass(slots=True, eq=False)
class Running:
    """A job in a slot. `abandoned`: whatever comes of it is not written any more."""

    job: ClaimedJob
    task: asyncio.Task[None] | None = None
    abandoned: bool = False
    signals: Signals = field(default_factory=Signals)


class Slots:
    """How many jobs a worker may run, in all and of each queue, and which it runs."""

    def __init__(self, total: int, queues: Sequence[str], limits: Mapping[str, int]) -> None:
        if type(total) is not int or total < 1:
            raise InvalidOption(f"concurrency {total} cannot be used: give 1 or more")
        for queue, limit in limits.items():
            if queue not in queues:
                raise UnknownQueue(f"a limit names queue {queue!r}, but this worker serves {', '.join(queues)}")
            if type(limit) is not int or limit < 1:
                raise InvalidOption(f"limit {queue}={limit} cannot be used: give 1 or more, or leave the queue out")
        self.total = total
        self.limited = bool(limits)
        self._queues = tuple(queues)
        self._limits = dict(limits)
        self._by_queue: Counter[str] = Counter()
        self._running: set[Running] = set()
        self._emptied = asyncio.Event()
        self._emptied.set()

    @property
    def running(self) -> list[Running]:
        """The jobs that run."""
        return list(self._running)

    @property
    def free(self) -> int:
        """How many more jobs may run."""
        return self.total - len(self._running)

    def rooms(self) -> dict[str, int]:
        """How many more jobs each queue may give, in order of the queues; a full one is left out."""
        rooms = {q: min(self.free, self._limits.get(q, self.total) - self._by_queue[q]) for q in self._queues}
        return {queue: room for queue, room in rooms.items() if room > 0}

    def room(self) -> int:
        """How many more jobs may be claimed."""
        return min(self.free, sum(self.rooms().values()))

    def take(self, job: ClaimedJob) -> Running:
        """Put a job into a slot."""
        running = Running(job)
        self._running.add(running)
        self._by_queue[job.queue] += 1
        self._emptied.clear()
        return running

    def give_back(self, running: Running) -> None:
        """Empty a slot."""
        self._running.discard(running)
        self._by_queue[running.job.queue] -= 1
        if not self._running:
            self._emptied.set()

    async def emptied(self) -> None:
        """Wait until no job runs."""
        await self._emptied.wait()
