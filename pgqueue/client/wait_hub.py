"""The one connection on which a process waits for jobs: a thread that listens, and looks now and then.

A notification is a hint that makes it fast. Looking is the truth: at all jobs that are waited for in one statement, at
growing intervals, and at once when the connection had been lost.
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
from pgqueue.errors import DatabaseUnreachable, NotAllowed, NotMigrated
from pgqueue.jobs.job import Job, JobState
from pgqueue.queries import Queries
from pgqueue.queries.results import JobSnapshot
from pgqueue.timing import Backoff, monotonic

log = logging.getLogger("pgqueue.waits")
FIRST_PAUSE, LONGEST_PAUSE, FOLLOWED_PAUSE = 0.1, 1.0, 0.5  # seconds between two looks at a job
AGAIN_SECONDS = 20.0  # after which it is said again that somebody waits; rows in the database last a minute
ANNOUNCE_SECONDS = 10.0  # at most so often the workers are told that somebody waits at all; they remember a minute
HEAR_SECONDS = 0.01  # what has come in is read at once; it may be something else than a notification
MISSING_SECONDS = 1.0  # after which the log says that a job cannot be seen
LOOK_BATCH, READ_BATCH = 5000, 20  # jobs in one statement; whole jobs, whose results may be long: a turn has a deadline
MISSING = (
    "the transaction that enqueued it has not committed, or was rolled back, or nothing is kept of it (retention=0), "
    "or there never was such a job. "
    "Wait for a job after the transaction has committed"
)


class Caller(Protocol):
    """Somebody who waits for a job. What it is told comes in the hub's thread, and must neither block nor raise."""

    job_id: int
    committed: bool  # whether the job is known to have been committed
    follows: bool  # whether it wants to hear of changes before the end

    def changed(self, job: Job) -> None: ...
    def ended(self, job: Job | None) -> None: ...
    def failed(self, error: Exception) -> None: ...


class Watched:
    """A job that somebody waits for, and what was last seen of it."""

    __slots__ = ("callers", "glimpse", "look_at", "missing", "missing_since", "pause", "said_at", "seen", "told")

    def __init__(self, now: float) -> None:
        self.callers: set[Caller] = set()
        self.seen = False
        self.glimpse: JobSnapshot | None = None
        self.pause = FIRST_PAUSE
        self.look_at = 0.0
        self.said_at: float | None = None
        self.missing = False
        self.missing_since = now
        self.told = False

    @property
    def follows(self) -> bool:
        """Whether anybody wants to hear of changes."""
        return any(caller.follows for caller in self.callers)

    def put_off(self, now: float) -> None:
        """Look again after a pause that grows. It ends where the pauses of others do, so that one look serves all."""
        pause = min(self.pause, FOLLOWED_PAUSE) if self.follows else self.pause
        self.look_at = (now // pause + 1) * pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)


class WaitHub:
    """Waits for any number of jobs on one connection. Its methods may be called in any thread.

    `listens`: whether LISTEN works on this database; else it only looks. Whoever waits when the first connection cannot
    be made gets that error; a connection that is lost later is made again.
    """

    def __init__(self, database: db.Database, queries: Queries, *, listens: bool) -> None:
        self.pid = os.getpid()
        self._queries = queries
        self._listens = listens
        self._link = Link(database, "pgqueue waits")
        self._loop = asyncio.SelectorEventLoop()
        self._wake = asyncio.Event()
        self._stopping = False
        self._watched: dict[int, Watched] = {}
        self._urgent: set[int] = set()  # jobs to look at now; of the others, the first is to be looked at then:
        self._next_at = math.inf
        self._unsaid: set[int] = set()  # jobs of which it is to be said now that somebody waits
        self._conn: db.AsyncConnection | None = None  # the one that listens
        self._readable = False
        self._announced_at = -ANNOUNCE_SECONDS
        self._backoff = Backoff()
        self._connected = False
        self._task = self._loop.create_task(self._run())
        self._thread = threading.Thread(target=self._main, name="pgqueue-waits", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it can be used: in this process, and not closed."""
        return self.pid == os.getpid() and self._thread.is_alive() and not self._stopping

    def add(self, caller: Caller) -> None:
        """Tell a caller how its job ends."""
        self._loop.call_soon_threadsafe(self._add, caller)

    def drop(self, caller: Caller) -> None:
        """Tell a caller no more."""
        with suppress(RuntimeError):  # the loop is closed, and nobody is told anything
            self._loop.call_soon_threadsafe(self._drop, caller)

    def glimpse(self, job_id: int) -> JobSnapshot | None:
        """Where a job stood when it was last seen live; None if it has not been seen."""
        watched = self._watched.get(job_id)
        return watched.glimpse if watched else None

    def stands(self, job_id: int) -> str:
        """Say where a job stood when it was last looked at."""
        watched = self._watched.get(job_id)
        if watched and watched.glimpse:
            return _stands(watched.glimpse)
        return f"it cannot be seen: {MISSING}" if watched and watched.missing else "the database has not answered"

    def close(self) -> None:
        """Stop, and let go of the connection. Who still waits is told that the app was closed."""
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
        self._loop.run_until_complete(self._link.close())  # lets in who came meanwhile
        self._fail(why)
        self._loop.close()

    def _add(self, caller: Caller) -> None:
        watched = self._watched.get(caller.job_id)
        if watched is None:
            watched = self._watched[caller.job_id] = Watched(monotonic())
        watched.callers.add(caller)
        watched.seen = watched.seen or caller.committed
        watched.pause, watched.glimpse = FIRST_PAUSE, None
        self._urgent.add(caller.job_id)
        if watched.said_at is None:
            self._unsaid.add(caller.job_id)
        self._wake.set()

    def _drop(self, caller: Caller) -> None:
        watched = self._watched.get(caller.job_id)
        if watched is not None:
            watched.callers.discard(caller)
            if not watched.callers:
                del self._watched[caller.job_id]
                self._urgent.discard(caller.job_id)

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
        """Try again later, unless that is no use."""
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
            for caller in watched.callers:
                caller.failed(error)
        self._watched.clear()
        self._urgent.clear()

    async def _turn(self) -> None:
        """Hear what was said, say what is new, and look at what is due.

        What is due is settled first: who comes while it is said for whom we wait is looked at in the next turn, for the
        look must come after that was said.
        """
        async with self._link.connection() as conn:
            self._connected = True
            if conn is not self._conn:
                await self._listen(conn)
            if self._readable:
                self._readable = False
                await self._hear(conn, HEAR_SECONDS)
            due = self._due()
            await self._say(conn)
            for start in range(0, len(due), LOOK_BATCH):
                await self._look(conn, due[start : start + LOOK_BATCH])
            await self._hear(conn, 0.0)  # what came in with the answers

    async def _listen(self, conn: db.AsyncConnection) -> None:
        """Begin on a new connection: look at everything, for nobody has listened until now."""
        if self._listens:
            await db.run_async(conn, self._queries.waits.listen_ended())
        self._conn = conn
        self._urgent.update(self._watched)

    async def _hear(self, conn: db.AsyncConnection, patience: float) -> None:
        """Look at once at the jobs that have ended, as a worker says. Raises if the connection is lost."""
        async for notification in conn.notifies(timeout=patience, stop_after=1):
            told = {int(word) for word in notification.payload.split() if word.isdecimal()}
            self._urgent |= told & self._watched.keys()

    def _due(self) -> list[int]:
        """The jobs to look at now. All of them are gone through only when the pause of one is over."""
        now = monotonic()
        due, self._urgent = self._urgent, set()
        if now >= self._next_at:
            due.update(job_id for job_id, w in self._watched.items() if w.look_at <= now)
            said = now - AGAIN_SECONDS
            self._unsaid.update(job_id for job_id, w in self._watched.items() if w.said_at and w.said_at < said)
            self._next_at = min((w.look_at for w in self._watched.values() if w.look_at > now), default=math.inf)
        return [job_id for job_id in due if job_id in self._watched]

    async def _say(self, conn: db.AsyncConnection) -> None:
        """Say for which jobs somebody waits: before the first look at them, and again now and then."""
        now = monotonic()
        self._unsaid &= self._watched.keys()
        unsaid = set(self._unsaid)
        if unsaid and self._listens:
            announce = now - self._announced_at > ANNOUNCE_SECONDS
            await db.run_async(conn, self._queries.waits.register_waits(unsaid, announce))
            self._announced_at = now if announce else self._announced_at
        self._unsaid -= unsaid
        for job_id in unsaid & self._watched.keys():
            self._watched[job_id].said_at = now

    async def _look(self, conn: db.AsyncConnection, ids: list[int]) -> None:
        follows = [w.follows if (w := self._watched.get(job_id)) else False for job_id in ids]
        now = monotonic()
        news: list[int] = []
        for glimpse in await db.run_async(conn, self._queries.waits.look(ids, follows)):
            watched = self._watched.get(glimpse.id)
            if watched is None:
                continue
            watched.put_off(now)
            self._next_at = min(self._next_at, watched.look_at)
            if glimpse.state is None or (watched.follows and glimpse != watched.glimpse):
                news.append(glimpse.id)
            if glimpse.state is not None:
                watched.seen, watched.glimpse = True, glimpse
        for start in range(0, len(news), READ_BATCH):
            await self._read(conn, news[start : start + READ_BATCH])

    async def _read(self, conn: db.AsyncConnection, ids: list[int]) -> None:
        """Read jobs that have changed, ended, or are not there."""
        jobs = {job.id: job for job in await db.run_async(conn, self._queries.waits.read_jobs(ids))}
        for job_id in ids:
            watched, job = self._watched.get(job_id), jobs.get(job_id)
            if watched is None:
                continue
            if job.state.is_terminal if job else watched.seen:
                del self._watched[job_id]  # it has ended; or nothing is kept of it
                for caller in watched.callers:
                    caller.ended(job)
            elif job:
                for caller in watched.callers:
                    caller.changed(job)
            else:
                _tell_missing(job_id, watched)

    async def _rest(self) -> None:
        """Wait until the next look is due, something is said, or somebody comes."""
        pause = 0.0 if self._urgent else self._next_at - monotonic() if self._watched else None
        if self._conn is None or self._conn.closed:
            await self._sleep(pause)
            return
        number = self._conn.fileno()
        self._loop.add_reader(number, self._heard)
        try:
            await self._sleep(pause)
        finally:
            self._loop.remove_reader(number)

    def _heard(self) -> None:
        self._readable = True
        self._wake.set()

    async def _sleep(self, seconds: float | None) -> None:
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)  # lets others come and go
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), None if seconds == math.inf else seconds)


def _tell_missing(job_id: int, watched: Watched) -> None:
    """Note that a job cannot be seen; log it once."""
    watched.missing = True
    if not watched.told and monotonic() - watched.missing_since > MISSING_SECONDS:
        watched.told = True
        log.warning("job %d is waited for and cannot be seen: %s", job_id, MISSING)


def _stands(glimpse: JobSnapshot) -> str:
    if glimpse.state != JobState.PENDING:
        return f"it was {glimpse.state} when last seen"
    if glimpse.attempt:
        return f"it was retrying when last seen, after attempt {glimpse.attempt} (`pgqueue jobs show` tells why)"
    if glimpse.later:
        return "it was scheduled for later when last seen"
    return "it was pending when last seen (`pgqueue status` shows whether a worker serves its queue)"
