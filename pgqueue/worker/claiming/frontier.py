"""How far a worker has claimed in each lane: a hint that lets a claim skip the dead rows before that."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.jobs.claim import Lane, Place
from pgqueue.timing import monotonic

SCAN_SHARE = 20  # a full scan is due again after so many times its own duration
COSTLY_SECONDS = 0.05  # a full scan that takes longer runs beside the claims, and does not hold them up


@dataclass(slots=True)
class Scan:
    """A full scan. `saw_all`: it claimed less than it had room for, so it has read all lanes to the end."""

    saw_all: bool = False


class Cost:
    """What something costs that may take a twentieth of the time: the lower of its last two durations, for one that the
    machine held up says little."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last = math.inf

    def note(self, seconds: float) -> float:
        """Note a duration; return the cost."""
        self.seconds, self._last = min(seconds, self._last), seconds
        return self.seconds


class Frontier:
    """The lanes a worker has claimed from, and the last job it claimed in each.

    The frontier is a hint, never the truth: jobs that are committed late or put back lie before it, and new lanes
    beside it. A full scan finds them, and the question for the next due job new lanes as well. The next scan is due
    after twenty times what one costs. While VACUUM can remove dead rows that is some milliseconds; behind a
    transaction that pins a million of them, some seconds.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._places: dict[Lane, Place] = {}
        self._due_at = 0.0
        self._saw_all = False
        self._cost = Cost()  # of a full scan
        self._relied_on = False  # whether a claim has skipped what lies before it since the last full scan

    @property
    def places(self) -> dict[Lane, Place]:
        """The last job of each lane."""
        return self._places

    @property
    def scan_is_costly(self) -> bool:
        """Whether a full scan takes so long that it should run beside the claims."""
        return self._cost.seconds > COSTLY_SECONDS

    @property
    def relied_on(self) -> bool:
        """Whether a claim has begun at the frontier since the last full scan, so that jobs may lie before it."""
        return self._relied_on

    @property
    def scan_in(self) -> float:
        """Seconds after which an idle worker should make a full scan; infinite if no claim has relied on the hint."""
        return max(self._due_at - self._now(), 0.0) if self._relied_on else math.inf

    def scan_due(self, *, short: bool = False) -> bool:
        """Whether to make a full scan: before a claim, or after one at the frontier that came back `short` of jobs."""
        return self._now() >= self._due_at or (short and not self._saw_all)

    @contextmanager
    def scanning(self) -> Iterator["Scan"]:
        """Measure a full scan, also one that fails. The caller sets `saw_all` on the yielded object."""
        scan, began = Scan(), self._now()
        try:
            yield scan
        except BaseException:
            self._cost.note(self._now() - began)  # it has not come to its end: what it took is no accident
            raise
        finally:
            cost = self._cost.note(self._now() - began)
            self._due_at = self._now() + SCAN_SHARE * cost
            self._saw_all = scan.saw_all
            self._relied_on = False

    def rely(self) -> None:
        """Note that a claim has begun at the frontier and skipped what lies before it."""
        self._relied_on = True

    def advance(self, jobs: Iterable[ClaimedJob]) -> None:
        """Move on to the last of `jobs` in each lane. They come in the order in which they were claimed."""
        self._places.update({(job.queue, job.priority): (job.run_at, job.id) for job in jobs})

    def meet(self, lanes: Mapping[Lane, datetime]) -> bool:
        """Note lanes whose first job is due, from that one on, unless a claim has been there; return whether any is
        new. So a new lane need not wait for a full scan, which on a busy machine may be a minute away."""
        new = {lane: (run_at, 0) for lane, run_at in lanes.items() if lane not in self._places}
        self._places.update(new)
        return bool(new)

    def retreat(self, job: ClaimedJob) -> None:
        """Move back before a job that was put back as it was: otherwise the frontier would hide it."""
        lane = job.queue, job.priority
        if lane in self._places:
            self._places[lane] = min(self._places[lane], (job.run_at, job.id - 1))

    def keep(self, queues: Collection[str]) -> None:
        """Forget the lanes of all other queues."""
        self._places = {lane: place for lane, place in self._places.items() if lane[0] in queues}

    def request_scan(self) -> None:
        """Let a full scan be due now."""
        self._due_at = 0.0
