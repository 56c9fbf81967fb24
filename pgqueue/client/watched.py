"""The jobs that a process waits for, and the looks at them: what is the same however the database is asked."""

import asyncio
import logging
import math
import threading
from collections.abc import Generator
from typing import Any, Protocol, TypeAlias

from pgqueue.errors import ResultMissing
from pgqueue.jobs.job import Job, JobState
from pgqueue.queries import Queries, Query
from pgqueue.queries.waits import JobSnapshot, UnreadableJob
from pgqueue.timing import monotonic

log = logging.getLogger("pgqueue.waits")
FIRST_PAUSE, LONGEST_PAUSE, FOLLOWED_PAUSE = 0.1, 1.0, 0.5  # seconds between two looks at a job
REGISTER_SECONDS = 20.0  # A wait is registered again after this; its row in the database counts for a minute.
MISSING_SECONDS = 1.0  # The log warns of a job that has been invisible for longer.
READ_BATCH = 20  # whole jobs in one statement; few, for results may be long and a turn has a deadline
Looks: TypeAlias = Generator[Query[Any], Any, None]  # yields statements, is sent their answers
MISSING = (
    "the transaction that enqueued it has not committed, or was rolled back, or nothing is kept of it (retention=0), "
    "or there never was such a job. "
    "Wait for a job after the transaction has committed"
)


class Waiter(Protocol):
    """One wait for a job. The hub calls its methods in the hub's own thread: they must neither block nor raise."""

    job_id: int
    committed: bool  # whether the job is known to have been committed
    follows: bool  # whether changes before the end matter, too

    def changed(self, job: Job) -> None: ...
    def ended(self, job: Job | None) -> None: ...
    def failed(self, error: Exception) -> None: ...


class WatchedJob:
    """A job that has waiters, and its state at the last look."""

    __slots__ = (
        "missing",
        "missing_since",
        "next_look",
        "pause",
        "registered_at",
        "seen",
        "snapshot",
        "waiters",
        "warned",
    )

    def __init__(self, now: float) -> None:
        self.waiters: set[Waiter] = set()
        self.seen = False  # whether it was visible once, or is known to be committed
        self.snapshot: JobSnapshot | None = None
        self.pause = FIRST_PAUSE
        self.next_look = 0.0
        self.registered_at: float | None = None
        self.missing = False
        self.missing_since = now
        self.warned = False

    @property
    def follows(self) -> bool:
        """Whether a waiter follows its changes."""
        return any(waiter.follows for waiter in self.waiters)

    def put_off(self, now: float) -> None:
        """Set the next look after a pause that grows. Pauses end at the same moments, so that one look serves all."""
        pause = min(self.pause, FOLLOWED_PAUSE) if self.follows else self.pause
        self.next_look = (now // pause + 1) * pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)


class WatchedJobs:
    """The jobs that are waited for. One thread of a hub uses it, but for `snapshot` and `last_seen`.

    `_wake` is set when a waiter is added.
    """

    _wake: asyncio.Event | threading.Event

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._watched: dict[int, WatchedJob] = {}
        self._urgent: set[int] = set()  # jobs to look at now; the next look at one of the others is due at:
        self._next_look = math.inf
        self._unregistered: set[int] = set()  # jobs whose wait is to be registered in the database now

    def snapshot(self, job_id: int) -> JobSnapshot | None:
        """Return the state of a job at the last look; None if no look has seen it live."""
        watched = self._watched.get(job_id)
        return watched.snapshot if watched else None

    def last_seen(self, job_id: int) -> str:
        """Describe the state of a job at the last look."""
        watched = self._watched.get(job_id)
        if watched and watched.snapshot:
            return _last_seen(watched.snapshot)
        return f"it cannot be seen: {MISSING}" if watched and watched.missing else "the database has not answered"

    def _add(self, waiter: Waiter) -> None:
        watched = self._watched.get(waiter.job_id)
        if watched is None:
            watched = self._watched[waiter.job_id] = WatchedJob(monotonic())
        watched.waiters.add(waiter)
        watched.seen = watched.seen or waiter.committed
        watched.pause, watched.snapshot = FIRST_PAUSE, None
        self._urgent.add(waiter.job_id)
        if watched.registered_at is None:
            self._unregistered.add(waiter.job_id)
        self._wake.set()

    def _drop(self, waiter: Waiter) -> None:
        watched = self._watched.get(waiter.job_id)
        if watched is not None:
            watched.waiters.discard(waiter)
            if not watched.waiters:
                del self._watched[waiter.job_id]
                self._urgent.discard(waiter.job_id)

    def _fail(self, error: Exception) -> None:
        for watched in list(self._watched.values()):
            for waiter in watched.waiters:
                waiter.failed(error)
        self._watched.clear()
        self._urgent.clear()

    def _due(self) -> list[int]:
        """Return the jobs to look at now. Goes through all jobs only when the pause of one is over."""
        now = monotonic()
        due, self._urgent = self._urgent, set()
        if now >= self._next_look:
            due.update(job_id for job_id, w in self._watched.items() if w.next_look <= now)
            stale = now - REGISTER_SECONDS
            self._unregistered.update(
                job_id for job_id, w in self._watched.items() if w.registered_at and w.registered_at < stale
            )
            self._next_look = min((w.next_look for w in self._watched.values() if w.next_look > now), default=math.inf)
        return [job_id for job_id in due if job_id in self._watched]

    def _look(self, ids: list[int]) -> Looks:
        """Look at jobs, and call the waiters of those that have changed or ended."""
        follows = [w.follows if (w := self._watched.get(job_id)) else False for job_id in ids]
        now = monotonic()
        changed: list[int] = []
        snapshots: list[JobSnapshot] = yield self._queries.waits.read_snapshots(ids, follows)
        for snapshot in snapshots:
            watched = self._watched.get(snapshot.id)
            if watched is None:
                continue
            watched.put_off(now)
            self._next_look = min(self._next_look, watched.next_look)
            if snapshot.state is None or (watched.follows and snapshot != watched.snapshot):
                changed.append(snapshot.id)
            if snapshot.state is not None:
                watched.seen, watched.snapshot = True, snapshot
        for start in range(0, len(changed), READ_BATCH):
            yield from self._read(changed[start : start + READ_BATCH])

    def _read(self, ids: list[int]) -> Looks:
        """Read jobs that have changed, have ended, or cannot be seen; call their waiters."""
        jobs: dict[int, Job] = {}
        answer: list[Job | UnreadableJob] = yield self._queries.waits.read_jobs(ids)
        for found in answer:
            if isinstance(found, UnreadableJob):
                self._give_up(found.id, found.reason)
            else:
                jobs[found.id] = found
        for job_id in ids:
            watched, job = self._watched.get(job_id), jobs.get(job_id)
            if watched is None:
                continue
            if job.state.is_terminal if job else watched.seen:
                del self._watched[job_id]  # it has ended; without a job, nothing is kept of it
                for waiter in watched.waiters:
                    waiter.ended(job)
            elif job:
                for waiter in watched.waiters:
                    waiter.changed(job)
            else:
                _note_missing(job_id, watched)

    def _give_up(self, job_id: int, reason: str) -> None:
        """End the waits for a job whose row cannot be read here."""
        watched = self._watched.pop(job_id, None)
        for waiter in watched.waiters if watched else ():
            waiter.failed(ResultMissing(f"job {job_id} cannot be read here: {reason}"))


def _note_missing(job_id: int, watched: WatchedJob) -> None:
    """Note that a job cannot be seen; warn once."""
    watched.missing = True
    if not watched.warned and monotonic() - watched.missing_since > MISSING_SECONDS:
        watched.warned = True
        log.warning("job %d is waited for and cannot be seen: %s", job_id, MISSING)


def _last_seen(snapshot: JobSnapshot) -> str:
    if snapshot.state == JobState.BLOCKED:
        return "it was blocked when last seen (`pgqueue jobs why` shows what it waits for)"
    if snapshot.state != JobState.PENDING:
        return f"it was {snapshot.state} when last seen"
    if snapshot.attempt:
        return f"it was retrying when last seen, after attempt {snapshot.attempt} (`pgqueue jobs show` shows why)"
    if snapshot.later:
        return "it was scheduled for later when last seen"
    return "it was pending when last seen (`pgqueue status` shows whether a worker serves its queue)"
