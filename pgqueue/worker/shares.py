"""Shares: how the room of one claim is divided between queues that each have a share of a worker's slots."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pgqueue.queries.jobs.claim import Portion

MOST_OWED = 10  # jobs: a queue that its slots hold back, or that did, is owed no more, and owes no more
TINY = 1e-9  # of a slot: what rounding leaves


@dataclass(frozen=True, slots=True)
class Division:
    """How one claim is divided: the portions of its queues in order, and their parts, which are 1 together."""

    room: int
    portions: Sequence[Portion]
    parts: Mapping[str, float]


class Shares:
    """Divides claims by shares: 6 and 3 are two thirds and one third of the slots, and of the jobs that begin.

    The part of a queue is its share among those that have due jobs. Room goes to the queues by their parts. What does
    not divide evenly is kept as credit, so that a queue whose part is less than a slot gets jobs as well. A queue
    that holds its part of the slots, rounded up, gets no more while another one wants some, so that jobs that take long
    crowd nobody out. What a queue leaves goes to the others in the same claim.

    A queue that had no due job left for its last portion is idle: it takes part in nothing, and goes first, within its
    part, when it has jobs again. A pattern has one share, which its queues that have due jobs divide evenly.
    """

    def __init__(self, shares: Mapping[str, int]) -> None:
        self._shares = dict(shares)
        self._credits: dict[str, float] = {}  # of queues that are not idle: jobs that are owed to them
        self._idle: set[str] = set()

    def part_of(self, given: str) -> float:
        """Return the part of a queue, or of a pattern, while all have jobs."""
        return self._shares.get(given, 1) / max(sum(self._shares.values()), 1)

    def divide(
        self, room: int, rooms: Mapping[str, int], held: Mapping[str, int], given: Mapping[str, str]
    ) -> Division:
        """Divide the `room` of one claim between queues that may give so many jobs each.

        `held`: how many jobs of each queue the worker has. `given`: the queue or pattern for which each one is served.
        """
        most = _most(room, self._parts(rooms, given), held)
        first = {queue: min(most[queue], rooms[queue]) for queue in rooms if queue in self._idle and most[queue] > 0}
        parts = self._parts([queue for queue in rooms if queue not in self._idle], given)
        most = _most(room, parts, held)
        wants = {q: room * part + self._credits.get(q, 0.0) for q, part in parts.items() if most[q] > 0}
        wants = dict(sorted(wants.items(), key=lambda want: -want[1]))
        first |= _quotas(room, parts, wants, {queue: min(most[queue], rooms[queue]) for queue in wants})
        portions = [Portion(queue, quota, 0) for queue, quota in first.items() if quota > 0]
        order = dict.fromkeys([*wants, *rooms])
        rest = ((queue, first.get(queue, 0), min(rooms[queue], room)) for queue in order)
        portions += [Portion(queue, most - skip, skip) for queue, skip, most in rest if most > skip]
        return Division(room, portions, parts)

    def settle(self, division: Division, claimed: Counter[str]) -> None:
        """Note how many jobs of each queue the claim brought: which queues are idle, and which are owed some."""
        self._note_idle(division, claimed)
        parts = _of_one({queue: part for queue, part in division.parts.items() if queue not in self._idle})
        brought = sum(claimed[queue] for queue in parts)
        for queue, part in parts.items():
            credit = self._credits.get(queue, 0.0) + brought * part - claimed[queue]
            self._credits[queue] = max(-MOST_OWED, min(credit, MOST_OWED))
        left = sum(self._credits.values())  # by queues that have become idle
        for queue, part in parts.items():
            self._credits[queue] -= left * part

    def keep(self, queues: Collection[str]) -> None:
        """Forget all other queues."""
        self._idle.intersection_update(queues)
        self._credits = {queue: credit for queue, credit in self._credits.items() if queue in queues}

    def _note_idle(self, division: Division, claimed: Counter[str]) -> None:
        left, brought = Counter(claimed), 0
        for queue, room, _ in division.portions:
            came = min(left[queue], room)
            left[queue] -= came
            brought += came
            if came == room:
                self._idle.discard(queue)
            elif brought == division.room:
                return  # the claim ended within this portion or before it
            else:
                self._idle.add(queue)
                self._credits.pop(queue, None)

    def _parts(self, queues: Iterable[str], given: Mapping[str, str]) -> dict[str, float]:
        served = {queue: given[queue] for queue in queues}
        among = Counter(served.values())
        return _of_one({queue: self._shares[name] / among[name] for queue, name in served.items()})


def _of_one(parts: Mapping[str, float]) -> dict[str, float]:
    """Return the parts so that they are 1 together."""
    total = sum(parts.values())
    return {queue: part / total for queue, part in parts.items()}


def _most(room: int, parts: Mapping[str, float], held: Mapping[str, int]) -> dict[str, int]:
    """Return how many more slots each queue may hold: its part of those that are held or free, rounded up."""
    slots = room + sum(held.get(queue, 0) for queue in parts)
    return {queue: math.ceil(part * slots - TINY) - held.get(queue, 0) for queue, part in parts.items()}


def _quotas(
    room: int, parts: Mapping[str, float], wants: Mapping[str, float], most: Mapping[str, int]
) -> dict[str, int]:
    """Divide `room` by wants, in whole jobs and at most so many for each; queues come in the order of their wants."""
    quotas = {queue: max(min(math.floor(want + TINY), most[queue]), 0) for queue, want in wants.items()}
    while (left := room - sum(quotas.values())) > 0:
        wanting = [queue for queue in wants if quotas[queue] < most[queue]]
        if not wanting:
            break
        total = sum(parts[queue] for queue in wanting)
        more = {queue: math.floor(left * parts[queue] / total) for queue in wanting}
        if not any(more.values()):
            wanting.sort(key=lambda queue: quotas[queue] - wants[queue])
            more = dict.fromkeys(wanting[:left], 1)
        for queue, jobs in more.items():
            quotas[queue] = min(quotas[queue] + jobs, most[queue])
    for queue in reversed(quotas):  # credits can add up to more than there is
        over = sum(quotas.values()) - room
        if over <= 0:
            break
        quotas[queue] -= min(quotas[queue], over)
    return quotas
