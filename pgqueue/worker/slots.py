"""Slots: room for running jobs, and the jobs that wait for a slot."""

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from pgqueue.errors import InvalidOption, UnknownQueue
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.patterns import Patterns, is_pattern
from pgqueue.queries.jobs.claim import Portion
from pgqueue.tasks.context import Signals
from pgqueue.worker.shares import Division, Shares

AHEAD_BYTES = 16 * 1024 * 1024  # of arguments claimed ahead of slots, at the mean size of the jobs that came lately
FORGET = 0.9  # of a larger mean, with each claim: large jobs come back


@dataclass(slots=True, eq=False, kw_only=True)
class RunningJob(Signals):
    """A job in a slot. `interrupted`: the worker cancels it. `abandoned`: the worker no longer writes its outcome."""

    job: ClaimedJob
    task: asyncio.Task[None] | None = None
    interrupted: bool = False
    abandoned: bool = False


class Slots:
    """How many jobs a worker may run, in all and of each queue; which jobs it runs, and which wait for a slot.

    Where jobs end fast the worker claims `ahead` of free slots, fewer where arguments are large, and the surplus waits
    here. A queue with a limit of its own is never claimed ahead of that limit. A pattern stands for the queues that
    `serve` names last: each has the pattern's limit, and they take turns at the pattern's place in the order. Where
    queues have shares, those divide each claim, and there is no order.
    """

    def __init__(
        self, total: int, queues: Sequence[str], limits: Mapping[str, int], shares: Mapping[str, int] = {}
    ) -> None:
        if type(total) is not int or not 1 <= total <= 10_000:
            raise InvalidOption(f"concurrency {total} cannot be used: give 1 to 10000")
        self._patterns = Patterns(queues)
        self._given = tuple(queues)
        for queue, limit in limits.items():
            if queue not in queues and self._patterns.match(queue) is None:
                raise UnknownQueue(f"a limit names queue {queue!r}, but this worker serves {', '.join(queues)}")
            if type(limit) is not int or limit < 1:
                raise InvalidOption(f"limit {queue}={limit} cannot be used: give 1 or more, or leave the queue out")
        self.total = total
        self.limited = bool(limits)
        self.ahead = 0
        self._mean_bytes = 1.0
        self.ended = 0  # how many jobs have run since the worker started
        self.has_patterns = bool(self._patterns)
        self._matching: dict[str, deque[str]] = {queue: deque() for queue in queues if is_pattern(queue)}
        self._given_limits = dict(limits)
        self._limits = dict(limits)
        self._shares = Shares(shares) if shares else None
        self.queues: tuple[str, ...] = ()  # by name, in the order in which they are claimed from
        self._order()
        self._held: Counter[str] = Counter()
        self.reserved = 0  # room that a full scan has set aside for what it claims
        self._reserved_rooms: Mapping[str, int] = {}
        self._waiting: deque[ClaimedJob] = deque()
        self._running: set[RunningJob] = set()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def serve(self, names: Iterable[str]) -> None:
        """Serve these queues for the patterns that they match, and no others."""
        for queues in self._matching.values():
            queues.clear()
        self._limits = dict(self._given_limits)
        for name in names:
            if (pattern := self._patterns.match(name)) is not None:
                self._matching[pattern].append(name)
                if pattern in self._given_limits:
                    self._limits.setdefault(name, self._given_limits[pattern])
        self._order()
        if self._shares is not None:
            self._shares.keep(self.queues)

    def take_turns(self) -> None:
        """Let another one of the queues that match a pattern be the first of them."""
        for queues in self._matching.values():
            queues.rotate(-1)
        self._order()

    def _order(self) -> None:
        self.queues = tuple(queue for given in self._given for queue in self._matching.get(given, (given,)))

    @property
    def most(self) -> int:
        """How many jobs may ever run at a time."""
        return self.total

    def begin_claims(self) -> None:
        """Note that claims follow. A worker's slots are always its own."""

    def end_claims(self) -> None:
        """Note that they have brought what they bring."""

    @property
    def running(self) -> list[RunningJob]:
        """The jobs that run."""
        return list(self._running)

    @property
    def waiting(self) -> list[ClaimedJob]:
        """The jobs that wait for a slot, the oldest first."""
        return list(self._waiting)

    @property
    def can_begin(self) -> bool:
        """Whether a job waits and a slot is free."""
        return bool(self._waiting) and len(self._running) < self.total

    @property
    def wants_jobs(self) -> bool:
        """Whether it is time to claim: slots are free, or a quarter of the jobs claimed ahead has begun."""
        return len(self._waiting) <= self.ahead * 3 // 4 and self.room() > 0

    def room_by_queue(self) -> dict[str, int]:
        """How many more jobs each queue may give, in the order of the queues; a full queue is left out."""
        space = self.room()
        rooms = {q: min(space, self._limits[q] - self._held[q]) if q in self._limits else space for q in self.queues}
        return {queue: room for queue, room in rooms.items() if room > 0}

    def divide(self, rooms: Mapping[str, int], room: int) -> Division:
        """Return the portions of the queues in a claim of `room` jobs: in order, or by their shares."""
        if self._shares is None:
            return Division(room, [Portion(queue, most, 0) for queue, most in rooms.items()], {})
        given = {queue: name for name in self._given for queue in self._matching.get(name, (name,))}
        held = {queue: self._held[queue] - self._reserved_rooms.get(queue, 0) for queue in rooms}
        return self._shares.divide(room, rooms, held, given)

    @property
    def has_shares(self) -> bool:
        """Whether the queues have shares."""
        return self._shares is not None

    def part_left(self, queue: str) -> int:
        """How many more slots a queue may have of its part while the other queues have jobs, too."""
        given = next((name for name in self._given if queue in self._matching.get(name, (name,))), queue)
        part = 1.0 if self._shares is None else self._shares.part_of(given)
        return max(ceil(self.total * part) - self._held[queue], 0)

    def settle(self, division: Division, jobs: Iterable[ClaimedJob]) -> None:
        """Note what a claim brought, for the shares of the next ones."""
        if self._shares is not None:
            self._shares.settle(division, Counter(job.queue for job in jobs))

    def room(self) -> int:
        """How many more jobs may be claimed, whatever their queue."""
        return self.total + self.ahead - len(self._running) - len(self._waiting) - self.reserved

    def reserve(self, most: int) -> dict[str, int]:
        """Reserve half of the room, for at most `most` jobs; return it as `room_by_queue` does."""
        reserved = min((self.room() + 1) // 2, most)
        rooms = {queue: min(room, reserved) for queue, room in self.room_by_queue().items() if reserved}
        self.reserved, self._reserved_rooms = reserved, rooms
        self._held.update(rooms)
        return rooms

    def unreserve(self, rooms: dict[str, int]) -> None:
        """Give up a reservation, and empty `rooms`: a second call with it changes nothing."""
        self.reserved = 0
        self._held.subtract(rooms)
        rooms.clear()

    def claim_ahead(self, jobs: int) -> None:
        """Claim so many jobs ahead of free slots, or as many as AHEAD_BYTES hold."""
        self.ahead = min(jobs, int(AHEAD_BYTES / self._mean_bytes))

    def note_sizes(self, jobs: Sequence[ClaimedJob]) -> None:
        """Learn from jobs that were just claimed how large their arguments are."""
        if jobs:
            mean = sum([len(job.args) for job in jobs]) / len(jobs)
            self._mean_bytes = max(mean, self._mean_bytes * FORGET, 1.0)
            self.claim_ahead(self.ahead)

    def add_waiting(self, job: ClaimedJob) -> None:
        """Let a claimed job wait for its slot."""
        self._held[job.queue] += 1
        self._waiting.append(job)
        self._emptied.clear()

    def begin_next(self) -> RunningJob | None:
        """Put the job that has waited longest into a slot; None if no job waits or no slot is free."""
        if not self.can_begin:
            return None
        running = RunningJob(job=self._waiting.popleft())
        self._running.add(running)
        return running

    def free(self, running: RunningJob) -> None:
        """Empty a slot: its job has ended."""
        self._running.discard(running)
        self.ended += 1
        self._release_room(running.job)

    def drop_waiting(self, jobs: Collection[ClaimedJob]) -> None:
        """Remove jobs that wait, without having run them."""
        dropped = {job.id for job in jobs}
        self._waiting = deque(job for job in self._waiting if job.id not in dropped)
        for job in jobs:
            self._release_room(job)

    def _release_room(self, job: ClaimedJob) -> None:
        self._held[job.queue] -= 1
        if not self._held[job.queue]:
            del self._held[job.queue]  # of queues that come and go, no trace stays
        if not self._running and not self._waiting:
            self._emptied.set()

    async def emptied(self) -> None:
        """Wait until no job runs or waits."""
        await self._emptied.wait()
