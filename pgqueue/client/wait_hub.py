"""One connection on which a process waits for jobs: a thread that listens for notifications and also polls.

A notification only makes it fast. Polling is what it relies on: one statement looks at all jobs that are waited for, at
growing intervals, and at once after the connection was lost.
"""

import asyncio
import logging
import math
import os
import threading
from contextlib import suppress
from typing import Protocol

from pgqueue import db
from pgqueue.db.failures import DATABASE_ERRORS, brief
from pgqueue.db.link import DEADLINE, Link
from pgqueue.errors import DatabaseUnreachable, NotAllowed, NotMigrated, ResultMissing
from pgqueue.jobs.job import Job, JobState
from pgqueue.queries import Queries
from pgqueue.queries.waits import JobSnapshot, UnreadableJob
from pgqueue.timing import Backoff, monotonic

log = logging.getLogger("pgqueue.waits")
FIRST_PAUSE, LONGEST_PAUSE, FOLLOWED_PAUSE = 0.1, 1.0, 0.5  # seconds between two looks at a job
REGISTER_SECONDS = 20.0  # A wait is registered again after this; its row in the database counts for a minute.
ANNOUNCE_SECONDS = 10.0  # Workers are notified at most this often that there are waits; they remember it for a minute.
RECEIVE_SECONDS = 0.01  # How long input that has arrived is read; it may be something else than a notification.
MISSING_SECONDS = 1.0  # The log warns of a job that has been invisible for longer.
LOOK_BATCH, READ_BATCH = (
    5000,
    20,
)  # jobs in one statement; few whole ones, for results may be long and a turn has a deadline
LONGEST_ID = 20  # characters
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


class WaitHub:
    """Waits for any number of jobs on one connection. Its methods may be called in any thread.

    `listens`: whether LISTEN works on this database; otherwise the hub only polls. If the first connection cannot be
    made, every waiter gets that error; a connection that is lost later is made again.
    """

    def __init__(self, database: db.Database, queries: Queries, *, listens: bool) -> None:
        self.pid = os.getpid()
        self._queries = queries
        self._listens = listens
        self._link = Link(database, "pgqueue waits")
        self._loop = asyncio.SelectorEventLoop()
        self._wake = asyncio.Event()
        self._stopping = False
        self._watched: dict[int, WatchedJob] = {}
        self._urgent: set[int] = set()  # jobs to look at now; the next look at one of the others is due at:
        self._next_look = math.inf
        self._unregistered: set[int] = set()  # jobs whose wait is to be registered in the database now
        self._conn: db.AsyncConnection | None = None  # the connection that listens
        self._readable = False
        self._announced_at = -ANNOUNCE_SECONDS
        self._backoff = Backoff()
        self._connected = False
        self._task = self._loop.create_task(self._run())
        self._thread = threading.Thread(target=self._main, name="pgqueue-waits", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it can be used: it belongs to this process and is not closed."""
        return self.pid == os.getpid() and self._thread.is_alive() and not self._stopping

    def add(self, waiter: Waiter) -> None:
        """Watch a waiter's job, and call the waiter when the job changes or ends."""
        self._loop.call_soon_threadsafe(self._add, waiter)

    def drop(self, waiter: Waiter) -> None:
        """Call a waiter no more."""
        with suppress(RuntimeError):  # the loop is closed, and calls no waiter any more
            self._loop.call_soon_threadsafe(self._drop, waiter)

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

    def close(self) -> None:
        """Stop, and close the connection. Jobs still waited for fail with DatabaseUnreachable: the app was closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(DEADLINE)

    def _main(self) -> None:
        why: Exception = DatabaseUnreachable("the app was closed while this waited for a job")
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
        except Exception as error:
            log.exception("waiting for jobs failed in an unforeseen way")
            why = error
        self._stopping = True
        self._loop.run_until_complete(self._link.close())  # also runs the additions that came meanwhile
        self._fail(why)
        self._loop.close()

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

    def _stop(self) -> None:
        self._stopping = True
        self._link.sever()  # first: a cancelled statement would wait for the server
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                if self._watched or self._readable:
                    await self._turn()
                    self._backoff.reset()
                await self._rest()
            except DATABASE_ERRORS as error:
                await self._failed(error)

    async def _failed(self, error: Exception) -> None:
        """Try again later, unless that cannot help."""
        if isinstance(error, (NotMigrated, NotAllowed)) or not self._connected:
            self._fail(error)
            return
        self._urgent.update(self._watched)
        delay = self._backoff.next()
        if self._backoff.failures == 1:
            log.warning("waiting for jobs failed, trying again: %s: %s", type(error).__name__, brief(error))
        await self._sleep(delay)

    def _fail(self, error: Exception) -> None:
        for watched in list(self._watched.values()):
            for waiter in watched.waiters:
                waiter.failed(error)
        self._watched.clear()
        self._urgent.clear()

    async def _turn(self) -> None:
        """Receive notifications, register new waits, and look at the jobs that are due.

        The due jobs are settled first: a job must be registered before the look at it, so a job that is added while
        this registers others is looked at in the next turn.
        """
        async with self._link.connection() as conn:
            self._connected = True
            if conn is not self._conn:
                await self._listen(conn)
            if self._readable:
                self._readable = False
                await self._receive(conn, RECEIVE_SECONDS)
            due = self._due()
            await self._register(conn)
            for start in range(0, len(due), LOOK_BATCH):
                await self._look(conn, due[start : start + LOOK_BATCH])
            await self._receive(conn, 0.0)  # notifications that arrived with the answers

    async def _listen(self, conn: db.AsyncConnection) -> None:
        """Begin on a new connection: look at every job, for until now no connection listened."""
        if self._listens:
            await db.run_async(conn, self._queries.waits.listen())
        self._conn = conn
        self._urgent.update(self._watched)

    async def _receive(self, conn: db.AsyncConnection, patience: float) -> None:
        """Make urgent the jobs that workers notify us have ended. Raises if the connection is lost."""
        async for notification in conn.notifies(timeout=patience, stop_after=1):
            self._urgent |= _job_ids(notification.payload) & self._watched.keys()

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

    async def _register(self, conn: db.AsyncConnection) -> None:
        """Register waits in the database: new ones before the first look at their jobs, old ones again in time."""
        now = monotonic()
        self._unregistered &= self._watched.keys()
        new = set(self._unregistered)
        if new and self._listens:
            announce = now - self._announced_at > ANNOUNCE_SECONDS
            await db.run_async(conn, self._queries.waits.register(new, announce))
            self._announced_at = now if announce else self._announced_at
        self._unregistered -= new
        for job_id in new & self._watched.keys():
            self._watched[job_id].registered_at = now

    async def _look(self, conn: db.AsyncConnection, ids: list[int]) -> None:
        follows = [w.follows if (w := self._watched.get(job_id)) else False for job_id in ids]
        now = monotonic()
        changed: list[int] = []
        for snapshot in await db.run_async(conn, self._queries.waits.read_snapshots(ids, follows)):
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
            await self._read(conn, changed[start : start + READ_BATCH])

    async def _read(self, conn: db.AsyncConnection, ids: list[int]) -> None:
        """Read jobs that have changed, have ended, or cannot be seen; call their waiters."""
        jobs: dict[int, Job] = {}
        for found in await db.run_async(conn, self._queries.waits.read_jobs(ids)):
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

    async def _rest(self) -> None:
        """Wait until the next look is due, a notification arrives, or a waiter is added."""
        pause = 0.0 if self._urgent else self._next_look - monotonic() if self._watched else None
        if self._conn is None or self._conn.closed:
            await self._sleep(pause)
            return
        number = self._conn.fileno()
        self._loop.add_reader(number, self._input_arrived)
        try:
            await self._sleep(pause)
        finally:
            self._loop.remove_reader(number)

    def _input_arrived(self) -> None:
        self._readable = True
        self._wake.set()

    async def _sleep(self, seconds: float | None) -> None:
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)  # lets waiters be added and dropped
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), None if seconds == math.inf else seconds)


def _job_ids(payload: str) -> set[int]:
    """Return the ids in a notification. Any role of the database may send one, with any text."""
    return {int(word) for word in payload.split() if len(word) < LONGEST_ID and word.isdecimal()}


def _note_missing(job_id: int, watched: WatchedJob) -> None:
    """Note that a job cannot be seen; warn once."""
    watched.missing = True
    if not watched.warned and monotonic() - watched.missing_since > MISSING_SECONDS:
        watched.warned = True
        log.warning("job %d is waited for and cannot be seen: %s", job_id, MISSING)


def _last_seen(snapshot: JobSnapshot) -> str:
    if snapshot.state != JobState.PENDING:
        return f"it was {snapshot.state} when last seen"
    if snapshot.attempt:
        return f"it was retrying when last seen, after attempt {snapshot.attempt} (`pgqueue jobs show` shows why)"
    if snapshot.later:
        return "it was scheduled for later when last seen"
    return "it was pending when last seen (`pgqueue status` shows whether a worker serves its queue)"
