"""Claims of metered jobs: from the lanes of the roster, which looks keep up to date."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.turns.claim import LaneKey, Line
from pgqueue.queries.turns.full import FullLane
from pgqueue.queries.turns.look import SeenLane
from pgqueue.timing import monotonic
from pgqueue.worker.claiming.frontier import SCAN_SHARE
from pgqueue.worker.claiming.roster import Roster
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

LEAST_LANE = -(2**63)
MOST_SEEN = 1000  # lanes in one look, over all queues
LOOK_SECONDS = 0.02  # between two looks, at least; more where they are costly
KNOWN_SECONDS, BUSY_SECONDS = 1.0, 5.0  # between two looks at most: while lanes are known, and while none is
BUSY_KNOWN_SECONDS = 0.025  # while lanes are known and all slots are busy: a new tenant's job is to have its turn soon
REST_SECONDS = 5.0  # after a look however costly: on a machine that is held up, jobs would wait for minutes else
TELL_SECONDS = 0.1  # between two notifications of jobs that could start here, were a slot free
EXPECT_SECONDS = 600.0  # for which more metered jobs are expected after the last ones


class Part(NamedTuple):
    """One of the claims of a step: plain jobs of these queues, or the metered ones of a queue."""

    plain: tuple[str, ...]
    metered: str | None = None


class TurnClaims:
    """Claims metered jobs for the producer, on its connection.

    A look is wanted when a notification has come, when a lane gave less than was asked, and from time to time. A worker
    whose app has no rules, and that has found no metered job for ten minutes, looks only where the question for the
    next due job says that there are some.
    """

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals) -> None:
        self._link = link
        self._signals = signals
        self._queries = core.queries.turns
        self._identity = core.identity
        self._slots = core.slots
        self.roster = Roster()
        self._wanted = False
        self._looked_at, self._cost, self._took = monotonic(), 0.0, 0.0
        self._told_at = -math.inf
        self._expects_until = math.inf if any(core.app.rules) else -math.inf
        self._after: dict[str, int] = {}
        self._dry = False  # all lanes that are known have given what they had, and there are more
        self._plain_first = False
        self._plain_priority: dict[str, int] = {}

    def want_look(self) -> None:
        """Look before the next claim: there are metered jobs."""
        self._wanted = True

    def notified(self) -> bool:
        """Note that jobs were committed, or have come due: metered ones perhaps. Returns whether it looks for these."""
        expects = bool(self.roster) or monotonic() < self._expects_until
        self._wanted = self._wanted or expects
        return expects

    def look_in(self) -> float:
        """Seconds until a look is due, infinite if none is wanted."""
        if self._dry:
            return max(self._looked_at + LOOK_SECONDS - monotonic(), 0.0)
        if not self._wanted:
            return math.inf
        return max(self._looked_at + max(LOOK_SECONDS, self._pause) - monotonic(), 0.0)

    @property
    def _pause(self) -> float:
        """Seconds after a look that its cost asks for."""
        return min(SCAN_SHARE * self._cost, REST_SECONDS)

    def _look_due(self, *, busy: bool) -> bool:
        if len(self.roster):
            rest = BUSY_KNOWN_SECONDS if busy else KNOWN_SECONDS
        else:
            rest = BUSY_SECONDS if busy else math.inf
        return self.look_in() <= 0 or monotonic() >= self._looked_at + max(rest, self._pause)

    async def look(self, *, busy: bool) -> None:
        """Look at the lanes of the worker's queues, if that is due; make the buckets that they need.

        A `busy` worker never asks for the next due job, and so looks from time to time.
        """
        if not self._look_due(busy=busy):
            return
        queues, began = self._slots.queues, monotonic()
        self._wanted = False
        if not queues:
            return
        most = max(MOST_SEEN // len(queues), 50)
        places = [(queue, self._after.get(queue, LEAST_LANE)) for queue in queues]
        self.roster.begin_look()
        seen = await self._link.run(self._queries.look(places, most))
        covered = []
        self._after = {}
        for queue, after in places:
            numbers = [lane.number for lane in seen if lane.queue == queue]
            if len(numbers) >= most:  # there may be more: the next look goes on there
                last = numbers[-1]
                self._after[queue] = last - 1 if last != numbers[0] else last
                covered.append((queue, after, self._after[queue]))
            else:
                covered.append((queue, after, -LEAST_LANE))
        missing = self.roster.see(seen, covered)
        if missing:
            paced = await self._link.run(self._queries.make_buckets(missing))
            self.roster.shut(paced)
            self._wanted = self._wanted or bool(paced)
        if seen:
            self._expects_until = max(self._expects_until, monotonic() + EXPECT_SECONDS)
            self._signals.metered_found([_full(lane) for lane in seen if lane.policy and lane.due_in <= 0])
        self._looked_at = monotonic()
        whole = not self._after and all(after == LEAST_LANE for _, after in places)
        self._note_cost(self._looked_at - began, len(seen), whole=whole)
        self._dry = False
        if self._after and not self.roster.is_stocked():
            self._wanted = True
        if busy:
            await self._tell_of_room(seen)

    def _note_cost(self, took: float, lanes: int, *, whole: bool) -> None:
        """Note what a look took for lanes that it has not opened: the rest is well spent. Of looks at all lanes the
        lower of the last two counts, for one that the machine held up says little."""
        took *= 1 - self.roster.opened / max(lanes, 1)
        self._cost, self._took = min(took, self._took) if whole else took, took

    async def _tell_of_room(self, seen: Sequence[SeenLane]) -> None:
        """Let other workers claim what could start, if this one has no slot left."""
        queues = {lane.queue for lane in seen if lane.can_begin}
        if queues and not self._slots.wants_jobs and monotonic() >= self._told_at + TELL_SECONDS:
            self._told_at = monotonic()
            await self._link.run(self._queries.tell_of_room(self._identity.id, sorted(queues)))

    async def claim(self, queue: str, room: int) -> Sequence[ClaimedJob]:
        """Claim up to `room` metered jobs of a queue: those that have kept places while they waited, and go on, by
        themselves, and before others, which have what is left of the room."""
        slots = max(self._slots.room() - self._slots.ahead, 0)
        lines = self.roster.choose(queue, room, slots)
        if not lines:
            return []
        asked: list[Line] = []
        jobs: list[ClaimedJob] = []
        lanes: dict[LaneKey, Sequence[ClaimedJob]] = {}
        for part in ([line for line in lines if line.kept is not None], [line for line in lines if line.kept is None]):
            if part and len(jobs) < room:
                left = {"room": room - len(jobs), "slots": max(slots - len(jobs), 0)}
                claimed = await self._link.run(self._queries.claim(self._identity.id, queue, part, **left))
                asked += part
                jobs += claimed.jobs
                lanes |= claimed.lanes
        if self.roster.claimed(queue, asked, lanes, room):
            self._wanted = True
        self._dry = bool(self._after) and not self.roster.is_open()
        return jobs

    @property
    def rests(self) -> bool:
        """Whether no metered job can be claimed and no look is due."""
        return self.look_in() > 0 and self._wakes_in() > 0

    def rest_in(self) -> float:
        """Seconds until a look is due, or a lane can be claimed from."""
        return min(self.look_in(), self._wakes_in())

    def turn_in(self) -> float:
        """Seconds until a look is due, or the turn of a job that is due already comes by the clock."""
        return min(self.look_in(), self.roster.wakes_in(self._slots.room_by_queue(), due=True))

    def _wakes_in(self) -> float:
        """Seconds until a lane can be claimed from whose queue has a slot left."""
        return self.roster.wakes_in(self._slots.room_by_queue())

    def note_plain(self, queues: Collection[str], jobs: Sequence[ClaimedJob]) -> None:
        """Learn of which priority the plain jobs of queues are, from a claim. It matters beside metered jobs alone."""
        if not self.roster:
            self._plain_priority.clear()
            return
        for queue in queues:
            self._plain_priority.pop(queue, None)
        for job in jobs:
            self._plain_priority[job.queue] = max(job.priority, self._plain_priority.get(job.queue, job.priority))

    def queues_in_order(self) -> list[str]:
        """The queues that have open lanes."""
        opened = self.roster.open_queues()
        return [queue for queue in self._slots.queues if queue in opened]

    def parts(self, queues: Sequence[str]) -> list[Part]:
        """Return the claims to make, in the order of the queues.

        In a queue that has both, the higher priority goes first; where both have the same, plain and metered jobs take
        turns.
        """
        opened = self.roster.open_queues()
        self._plain_first = not self._plain_first
        parts: list[Part] = []
        plain: list[str] = []
        for queue in queues:
            if queue not in opened:
                plain.append(queue)
                continue
            before = [*plain, queue] if self._is_plain_first(queue) else plain
            parts += [Part(tuple(before)), Part((), queue)]
            plain = [] if before is not plain else [queue]
        return [part for part in (*parts, Part(tuple(plain))) if part.plain or part.metered]

    def _is_plain_first(self, queue: str) -> bool:
        metered, plain = self.roster.best_priority(queue), self._plain_priority.get(queue)
        return self._plain_first if plain is None or plain == metered else plain > metered


def _full(lane: SeenLane) -> FullLane:
    policy, _, bucket = (lane.policy or "").partition(" ")
    return FullLane(lane.queue, lane.number, lane.priority, bucket, policy)
