"""How far each lane has been read: a hint that lets a claim begin behind what is dead already."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.jobs.claim import Lane, Place
from pgqueue.timing import monotonic

SHARE = 20  # looking at everything may take one part in so many of the time
LONG = 0.05  # seconds: what takes longer must not hold up the claims


@dataclass(slots=True)
class Look:
    """A look at everything. `saw_all`: it came back short of jobs, so it has seen all lanes."""

    saw_all: bool = False


class Frontier:
    """The lanes a worker has claimed from, and its last job of each.

    Never the truth: jobs that are committed late or put back lie before it, and new lanes beside it. They are found by
    a look at everything, which is due again after twenty times as long as the last one took. While nothing hinders
    VACUUM that is some milliseconds; behind a transaction that pins a million dead rows, some seconds.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._places: dict[Lane, Place] = {}
        self._due_at = 0.0
        self._saw_all = False
        self._cost = 0.0
        self._trusted = False  # whether anybody has relied on it since everything was looked at

    @property
    def places(self) -> dict[Lane, Place]:
        """The last job of each lane."""
        return self._places

    @property
    def costly(self) -> bool:
        """Whether a look at everything takes so long that it should be had beside the claims."""
        return self._cost > LONG

    @property
    def trusting(self) -> bool:
        """Whether a claim went beyond it since everything was looked at."""
        return self._trusted

    @property
    def look_in(self) -> float:
        """Seconds after which an idle worker should look at everything; infinite if nothing was taken on trust."""
        return max(self._due_at - self._now(), 0.0) if self._trusted else math.inf

    def must_look(self, *, short: bool = False) -> bool:
        """Whether to look at everything: before a claim, or after one beyond the frontier that came back short."""
        return self._now() >= self._due_at or (short and not self._saw_all)

    @contextmanager
    def look(self) -> Iterator["Look"]:
        """Note what a look at everything costs, also one that fails, and whether it `saw_all`."""
        look, began = Look(), self._now()
        try:
            yield look
        finally:
            self._cost = self._now() - began
            self._due_at = self._now() + SHARE * self._cost
            self._saw_all = look.saw_all
            self._trusted = False

    def trusted(self) -> None:
        """Note that a claim went beyond it without looking at everything."""
        self._trusted = True

    def advance(self, jobs: Iterable[ClaimedJob]) -> None:
        """Note what was claimed, in the order it was claimed."""
        self._places.update({(job.queue, job.priority): (job.run_at, job.id) for job in jobs})

    def retreat(self, job: ClaimedJob) -> None:
        """Note that a job was put back as it was: a place that is not before it would hide it."""
        lane = job.queue, job.priority
        if lane in self._places:
            self._places[lane] = min(self._places[lane], (job.run_at, job.id - 1))

    def forget(self) -> None:
        """Look at everything next time."""
        self._due_at = 0.0
