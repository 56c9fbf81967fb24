"""The lanes of metered jobs that a worker knows, and whose turn is next."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heapreplace, nlargest, nsmallest

from pgqueue.jobs.flow import FLOW, Flow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.turns.claim import MANY_LANES, LaneKey, Line
from pgqueue.queries.turns.look import SeenLane
from pgqueue.timing import monotonic

MOST_LANES = 2000  # that a worker remembers; a look goes round, so that others have their turn
LOCKED_SECONDS = 0.05  # before a lane is tried again that gave nothing, though a look had found room and a due job
SPENT_SECONDS = 1.0  # the same of a lane whose buckets had room: most likely it has no job that is due
MOST_PRIORITIES = 3  # in one claim
AGEING = 16  # claims of which one goes by age
JOBS_A_LANE = 4  # of a large claim: it takes a few jobs of each lane, a small one of as many as it can
FEWEST_A_LANE = 2  # likewise, where most lanes have one: the second, that is not there, says that a lane is spent
SHARED_JOBS = 8  # likewise, of lanes without buckets, which always have room
SPARE_LANES = 4  # beyond those that would fill the room with a job each
_Key = tuple[str, int, int]  # queue, lane, priority


@dataclass(slots=True)
class Pace:
    """A rate that this worker keeps for itself: at most `burst` starts at once, and one each `step` seconds."""

    burst: int
    step: float
    next_at: float = -math.inf  # when the next start would be due if all came evenly

    def tokens(self, now: float) -> int:
        """How many jobs may start now."""
        return max(math.floor(self.burst - max(self.next_at - now, 0.0) / self.step), 0)

    def spend(self, now: float, starts: int) -> None:
        """Note that so many jobs start now."""
        self.next_at = max(self.next_at, now) + starts * self.step

    def opens_at(self) -> float:
        """When the next job may start."""
        return self.next_at - (self.burst - 1) * self.step


@dataclass(slots=True)
class KnownLane:
    """A lane that a look has found. It can be claimed from while `ready`, or from `wakes_at` on.

    `group`: whose turn it is, since lanes with one share take turns together.
    `timed`: it waits for that time, whichever jobs end before. `place`: the last job that was claimed from it, a hint
    that the next look corrects. `ends`: how many jobs that share a bucket with it have ended here; `ends_before`: how
    many of them before the claim that is under way, which may show no later one. `later`: its first job is not due yet.
    `room`: how many jobs its buckets admitted when a look was at them, and do since. `spent`: it gave fewer, and so has
    none left that is due.
    """

    queue: str
    number: int
    priority: int
    flow: Flow
    header: str  # the flow as JSON
    buckets: str  # likewise
    group: str | int
    weight: float = 1.0
    ready: bool = True
    wakes_at: float = math.inf
    timed: bool = False
    later: bool = False
    served: int = 0
    ends: int = 0
    ends_before: int = 0
    room: int = 0
    spent: bool = False
    place: tuple[datetime, int] | None = None
    paces: list[str] = field(default_factory=list)

    @property
    def key(self) -> _Key:
        """The queue, number and priority."""
        return self.queue, self.number, self.priority

    def is_open(self, now: float) -> bool:
        """Whether a claim may bring jobs."""
        return self.ready or now >= self.wakes_at


class Roster:
    """The known lanes of metered jobs. Like the frontier it is a hint: claims decide, and looks correct it.

    The next turn has the lane of the highest priority. Of several lanes it has one of whose share no job runs here,
    else the one whose share has the smallest (jobs + 1/2) / weight: that is Webster's method of apportioning seats,
    which favours neither the heavy nor the light. So turns are fair in slots, not only in starts: a tenant with long
    jobs does not keep all of them. Between shares that stand alike, the one has its turn that has had the fewest starts
    for its weight, as in stride scheduling (Waldspurger and Weihl, 1995): where there are more tenants than slots,
    weights decide by that. A share that comes anew, or comes back, has no claim on the past.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._lanes: dict[_Key, KnownLane] = {}
        self._by_bucket: dict[str, set[_Key]] = {}
        self._paces: dict[str, Pace] = {}
        self._running: Counter[str | int] = Counter()
        self._held: dict[int, str | int] = {}  # the jobs of this worker, each with the share that it counts for
        self._starts: dict[
            str | int, float
        ] = {}  # of each share, over its weight, beginning with the `_level` at which it came
        self._level = 0.0  # of the share whose turn was the last
        self._turn = 0
        self._choices = 0
        self._jobs_a_lane = JOBS_A_LANE
        self.opened = 0  # lanes from which jobs can be claimed since the last look, and could not before
        self._claiming = False  # a claim is under way, which may not show what ends meanwhile
        self._ended: set[str] | None = None  # buckets that jobs have left since the look began that is under way

    def __len__(self) -> int:
        """How many lanes are known."""
        return len(self._lanes)

    def is_stocked(self) -> bool:
        """Whether half of the lanes that it holds at most can be claimed from."""
        now = self._now()
        return sum(lane.is_open(now) for lane in self._lanes.values()) >= MOST_LANES / 2

    def open_queues(self) -> set[str]:
        """The queues of which a claim may bring metered jobs."""
        now, opened = self._now(), set[str]()
        for lane in self._lanes.values():
            if lane.queue not in opened and lane.is_open(now):
                opened.add(lane.queue)
        return opened

    def is_spent(self) -> bool:
        """Whether no lane can be claimed from, and most of them have given all that they had."""
        now, lanes = self._now(), self._lanes.values()
        return not any(lane.is_open(now) for lane in lanes) and sum(lane.spent for lane in lanes) > len(lanes) / 2

    def best_priority(self, queue: str) -> int:
        """The highest priority of an open lane of a queue."""
        now = self._now()
        return max(lane.priority for lane in self._lanes.values() if lane.queue == queue and lane.is_open(now))

    def wakes_in(self, queues: Container[str], *, due: bool = False) -> float:
        """Seconds until the next lane of these queues can be claimed from, or the next whose job is `due` already;
        infinite if that depends on others."""
        wakes_at = math.inf
        for lane in self._lanes.values():
            if lane.queue in queues and not (due and lane.later):
                if lane.ready:
                    return 0.0
                wakes_at = min(wakes_at, lane.wakes_at)
        return max(wakes_at - self._now(), 0.0)

    def choose(self, queue: str, room: int, slots: int = 0) -> list[Line]:
        """Return the lanes of a queue whose turn is next, as many as may fill the room, each with its share of it.

        `slots` of the jobs would begin at once: as many lanes have a turn.

        Each of the highest priorities may fill the room: the claim takes the higher ones first. One claim in sixteen
        takes a job of each of the lanes that have been served least lately, so that no priority waits for ever.
        """
        now = self._now()
        lanes = [lane for lane in self._lanes.values() if lane.queue == queue and lane.is_open(now)]
        lines: list[Line] = []
        priorities = {lane.priority for lane in lanes}
        self._choices += 1
        if self._choices % AGEING == 0 and len(priorities) > 1:
            lanes = [lane for lane in lanes if all(self._paces[name].tokens(now) > 0 for name in lane.paces)]
            oldest = nsmallest(room, lanes, key=lambda lane: lane.served)
            self._claiming = bool(oldest)
            return [_line(lane, 1) for lane in oldest]
        for priority in nlargest(MOST_PRIORITIES, priorities):
            lines += self._share(room, slots, [lane for lane in lanes if lane.priority == priority], now)
        self._claiming = bool(lines)
        return lines

    def _share(self, room: int, slots: int, lanes: list[KnownLane], now: float) -> Iterator[Line]:
        """Share the room among lanes of one priority: each job to the lane whose share runs the fewest for its weight,
        counting those that it has got here."""
        jobs_a_lane = self._jobs_a_lane if any(lane.flow.buckets for lane in lanes) else SHARED_JOBS
        wanted = min(room + SPARE_LANES, max(room // jobs_a_lane, MANY_LANES, slots))
        standing = sorted([(*self._standing(lane), number) for number, lane in enumerate(lanes)])
        chosen = [lanes[number] for *_, number in standing[:wanted]]
        if len(chosen) == 1 and not chosen[0].paces:
            yield _line(chosen[0], room)
            return
        left = {name: self._paces[name].tokens(now) for lane in chosen for name in lane.paces}
        for lane, most in zip(chosen, self._deal(room, chosen, left), strict=True):
            if most:
                yield _line(lane, most)
            elif lane.paces and any(left[name] <= 0 for name in lane.paces):
                self._wait_for_pace(lane, now)

    def _deal(self, room: int, chosen: list[KnownLane], left: dict[str, int]) -> list[int]:
        """Return how many jobs of the room each of these lanes has. They come in the order of their turns; `left`, the
        starts that paces admit, is counted down."""
        running, got = [self._running[lane.group] for lane in chosen], [0] * len(chosen)
        if not left and len({(runs, lane.weight) for runs, lane in zip(running, chosen, strict=True)}) == 1:
            each, more = divmod(room, len(chosen))  # all are alike, and take turns
            return [each + (number < more) for number in range(len(chosen))]
        turns = [(*self._standing(lane), number) for number, lane in enumerate(chosen)]  # sorted: a heap
        for _ in range(room):
            if not turns:
                break
            _, starts, served, number = turns[0]
            lane = chosen[number]
            if lane.paces:
                if any(left[name] <= 0 for name in lane.paces):
                    heappop(turns)
                    continue
                for name in lane.paces:
                    left[name] -= 1
            got[number] += 1
            slots = (running[number] + got[number] + 0.5) / lane.weight
            heapreplace(turns, (slots, starts + 1 / lane.weight, served, number))
        return got

    def _standing(self, lane: KnownLane) -> tuple[float, float, int]:
        group = lane.group
        slots = (self._running[group] + 0.5) / lane.weight if group in self._running else 0.0
        return slots, self._starts.get(group, 0.0), lane.served

    def _wait_for_pace(self, lane: KnownLane, now: float) -> None:
        lane.ready, lane.timed = False, True
        lane.wakes_at = max((self._paces[name].opens_at() for name in lane.paces), default=now)

    def claimed(
        self, queue: str, lines: Sequence[Line], jobs: Mapping[LaneKey, Sequence[ClaimedJob]], room: int
    ) -> bool:
        """Note which jobs of each lane a claim has brought. Returns whether a lane gave less than was asked, so that a
        look should say why."""
        self._claiming = False
        now, short, is_full = self._now(), False, sum(map(len, jobs.values())) >= room
        known = [(line, lane) for line in lines if (lane := self._lanes.get((queue, line.lane, line.priority)))]
        if jobs:
            self._level = max(self._level, min((self._starts.get(lane.group, 0.0) for _, lane in known), default=0.0))
        for line, lane in known:
            of_lane = jobs.get((line.lane, line.priority), ())
            count = len(of_lane)
            if count:
                self._note(lane, of_lane)
                for name in lane.paces:
                    self._paces[name].spend(now, count)
            if count < line.most and not is_full and lane.ends == lane.ends_before:
                lane.ready, lane.timed, short = False, False, True
                lane.spent = len(known) > MANY_LANES and self._is_spent(lane, count)
                lane.wakes_at = now + (SPENT_SECONDS if lane.spent else LOCKED_SECONDS)
            lane.room -= count
        self._adapt([lane for _, lane in known])
        return short

    def _is_spent(self, lane: KnownLane, count: int) -> bool:
        """Whether a lane that gave `count` jobs, fewer than were asked, seems to have none left that is due.

        Its buckets had room for more, and no other lane of this worker uses them. If it gave none, somebody may have
        locked its bucket. Other workers may have taken that room, too: so this is believed where there are many lanes.
        """
        if not count:
            return lane.spent
        return count < lane.room and all(len(self._by_bucket[name]) == 1 for name in lane.flow.buckets)

    def _adapt(self, asked: Sequence[KnownLane]) -> None:
        """Ask fewer jobs of each lane, and more lanes, where most lanes have not even two; more where lanes give what
        is asked of them."""
        if len(asked) > MANY_LANES:
            spent = sum(lane.spent for lane in asked) / len(asked)
            if spent > 0.5:
                self._jobs_a_lane = FEWEST_A_LANE
            elif spent < 0.25:
                self._jobs_a_lane = JOBS_A_LANE

    def _note(self, lane: KnownLane, jobs: Sequence[ClaimedJob]) -> None:
        """Note that these jobs of a lane, of which the last one is last, run here from now on."""
        self._turn += 1
        lane.served = self._turn
        group, held = lane.group, self._held
        for job in jobs:
            if job.id in held:  # it has come back before the end of its last attempt here was noted
                self.left(job)
            held[job.id] = group
        self._running[group] += len(jobs)
        self._starts[group] = self._starts.get(group, 0.0) + len(jobs) / lane.weight
        if lane.flow.order is None:
            last = jobs[-1].run_at, jobs[-1].id
            lane.place = last if lane.place is None else max(lane.place, last)

    def left(self, job: ClaimedJob) -> None:
        """Note that a job has left its slot, or was dropped. A second call changes nothing."""
        group = self._held.pop(job.id, None)
        if group is None:
            return
        self._running[group] -= 1
        if self._running[group] <= 0:
            del self._running[group]

    def ended(self, jobs: Iterable[ClaimedJob]) -> bool:
        """Note that the ends of jobs are written: each lane that shares a bucket with one of them may go on. Returns
        whether one does that could not be claimed from, or from which a claim is under way."""
        names, lanes, held = set[str](), set[int](), self._held
        for job in jobs:
            if job.id in held:
                self.left(job)
            lane = job.lane or 0
            if lane not in lanes or lane < 0:  # all jobs of a lane have its buckets, unless they have an order
                lanes.add(lane)
                names.update(self._buckets_of(job))
        opened = False
        for name in names:
            if self._ended is not None:
                self._ended.add(name)
            for key in self._by_bucket.get(name, ()):
                known = self._lanes[key]
                known.ends += 1
                known.room += 1
                if known.ready:
                    opened = opened or self._claiming
                elif not known.timed and not known.spent:
                    known.ready = opened = True
        return opened

    def drop_running(self) -> None:
        """Forget which jobs run: they are another worker's now."""
        self._running.clear()
        self._held.clear()

    def _buckets_of(self, job: ClaimedJob) -> Sequence[str]:
        lane = self._lanes.get((job.queue, job.lane or 0, job.priority))
        return lane.flow.buckets if lane else Flow.of_header(json.loads(job.headers or "{}")[FLOW]).buckets

    def begin_look(self) -> None:
        """Remember what ends from now on: the look may be too early to show it, and nobody would say it again."""
        self._ended = set()

    def see(self, seen: Iterable[SeenLane], covered: Iterable[tuple[str, int, int]]) -> list[str]:
        """Take over what a look has found. `covered`: for each queue the numbers between which it has seen all lanes.

        Returns the buckets that do not exist yet; their lanes are open once they do.
        """
        now, missing, found = self._now(), set[str](), set[_Key]()
        ended, self._ended = self._ended or set(), None
        old, new = list[SeenLane](), list[SeenLane]()
        for lane in seen:
            key = _key(lane)
            found.add(key)
            (old if key in self._lanes else new).append(lane)
        coming = self._admit(new)
        self.opened = 0
        for lane in (*(lane for lane in old if _key(lane) in self._lanes), *coming):
            was_open = (known := self._lanes.get(_key(lane))) is not None and known.is_open(now)
            known = self._learn(lane)
            known.place = lane.run_at, lane.id - 1
            waits = max(lane.due_in, 0.0 if lane.opens_in is None else lane.opens_in)
            if lane.room is None:
                missing.update(known.flow.buckets)
            known.ready = waits <= 0 and lane.room != 0
            if waits == math.inf and not ended.isdisjoint(known.flow.buckets):
                known.ready = True
            known.wakes_at = math.inf if known.ready else now + waits
            known.room, known.spent = lane.room or 0, False
            known.timed = waits < math.inf
            known.later = lane.due_in > 0
            self.opened += known.ready and not was_open
        self._forget({key for key in self._lanes if key not in found and _is_within(key, covered)})
        if len(self._starts) > 2 * MOST_LANES:
            present = {lane.group for lane in self._lanes.values()}
            self._starts = {group: starts for group, starts in self._starts.items() if group in present}
        if self._paces:  # that of a lane which is gone still counts while it admits less than its burst
            self._paces = {k: pace for k, pace in self._paces.items() if k in self._by_bucket or pace.next_at > now}
        return sorted(missing)

    def shut(self, buckets: Iterable[str]) -> None:
        """Let the lanes of these buckets wait for the next look, which tells their paces."""
        for key in {key for name in buckets for key in self._by_bucket.get(name, ())}:
            lane = self._lanes[key]
            lane.ready, lane.timed, lane.wakes_at = False, True, math.inf

    def _admit(self, new: list[SeenLane]) -> list[SeenLane]:
        """Return those of new lanes for which there is a place, and make places: lanes go from which nothing can be
        claimed now, and for lanes that can be claimed from also those that were served last. Chance decides which come,
        so that each has its turn, however many there are."""
        free, now = MOST_LANES - len(self._lanes), self._now()
        if len(new) <= free:
            return new
        random.shuffle(new)
        new.sort(key=lambda lane: not lane.can_begin)
        shut = [key for key, lane in self._lanes.items() if not lane.is_open(now)][: len(new) - free]
        more = max(sum(lane.can_begin for lane in new) - free - len(shut), 0)
        served = (lane for lane in self._lanes.values() if lane.served and lane.is_open(now))
        self._forget([*shut, *(lane.key for lane in nlargest(more, served, key=lambda lane: lane.served))])
        return new[: MOST_LANES - len(self._lanes)]

    def _learn(self, seen: SeenLane) -> KnownLane:
        key = _key(seen)
        lane = self._lanes.get(key)
        if lane is not None and lane.header != seen.flow:  # an order whose first job now has other buckets
            self._forget({key})
            lane = None
        if lane is None:
            flow = Flow.of_header(json.loads(seen.flow))
            lane = KnownLane(*key, flow, seen.flow, json.dumps(flow.buckets), flow.share or key[1])
            self._lanes[key] = lane
            self._starts[lane.group] = max(self._starts.get(lane.group, 0.0), self._level)
            for name in lane.flow.buckets:
                self._by_bucket.setdefault(name, set()).add(key)
        lane.weight = seen.weight or 1.0
        lane.paces = []
        for name, burst, step in json.loads(seen.paced) if seen.paced else ():
            pace = self._paces.setdefault(name, Pace(burst, step))
            pace.burst, pace.step = burst, step
            lane.paces.append(name)
        return lane

    def _forget(self, keys: Iterable[_Key]) -> None:
        for key in keys:
            lane = self._lanes.pop(key)
            for name in lane.flow.buckets:
                sharing = self._by_bucket[name]
                sharing.discard(key)
                if not sharing:
                    del self._by_bucket[name]


def _line(lane: KnownLane, most: int) -> Line:
    """Ask at most so many jobs of a lane."""
    lane.ends_before = lane.ends
    return Line(lane.number, lane.priority, lane.buckets, most, *_start(lane))


def _start(lane: KnownLane) -> tuple[datetime | None, int]:
    if lane.place is None or lane.flow.order is not None:
        return None, 0
    return lane.place


def _key(lane: SeenLane) -> _Key:
    return lane.queue, lane.number, lane.priority


def _is_within(key: _Key, covered: Iterable[tuple[str, int, int]]) -> bool:
    return any(key[0] == queue and low < key[1] <= high for queue, low, high in covered)
