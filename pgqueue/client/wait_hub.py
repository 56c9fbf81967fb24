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

from pgqueue import db
from pgqueue.client.watched import Looks, Waiter, WatchedJobs
from pgqueue.db.failures import DATABASE_ERRORS, brief
from pgqueue.db.link import DEADLINE, Link
from pgqueue.errors import DatabaseUnreachable, NotAllowed, NotMigrated, ReadOnlyDatabase
from pgqueue.queries import Queries
from pgqueue.timing import Backoff, monotonic

log = logging.getLogger("pgqueue.waits")
ANNOUNCE_SECONDS = 10.0  # Workers are notified at most this often that there are waits; they remember it for a minute.
RECEIVE_SECONDS = 0.01  # How long input that has arrived is read; it may be something else than a notification.
LOOK_BATCH = 5000  # jobs in one statement
LONGEST_ID = 20  # characters


class WaitHub(WatchedJobs):
    """Waits for any number of jobs on one connection. Its methods may be called in any thread.

    `listens`: whether LISTEN works on this database; otherwise the hub only polls. If the first connection cannot be
    made, every waiter gets that error; a connection that is lost later is made again.
    """

    def __init__(self, database: db.Database, queries: Queries, *, listens: bool) -> None:
        super().__init__(queries)
        self.pid = os.getpid()
        self._listens = listens
        self._link = Link(database, "pgqueue waits")
        self._loop = asyncio.SelectorEventLoop()
        self._wake: asyncio.Event = asyncio.Event()
        self._stopping = False
        self._conn: db.AsyncConnection | None = None  # the connection that listens
        self._readable = False
        self._announced_at = -ANNOUNCE_SECONDS
        self._backoff = Backoff()
        self._connected = False
        self._has_registered = False  # to a server that takes writes: if it is read-only now, the next one may not be
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
        is_reader = isinstance(error, ReadOnlyDatabase) and not self._has_registered
        if isinstance(error, (NotMigrated, NotAllowed)) or is_reader or not self._connected:
            self._fail(error)
            return
        self._urgent.update(self._watched)
        delay = self._backoff.next()
        if self._backoff.failures == 1:
            log.warning("waiting for jobs failed, trying again: %s: %s", type(error).__name__, brief(error))
        await self._sleep(delay)

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
                await _look(conn, self._look(due[start : start + LOOK_BATCH]))
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

    async def _register(self, conn: db.AsyncConnection) -> None:
        """Register waits in the database: new ones before the first look at their jobs, old ones again in time."""
        now = monotonic()
        self._unregistered &= self._watched.keys()
        new = set(self._unregistered)
        if new and self._listens:
            announce = now - self._announced_at > ANNOUNCE_SECONDS
            await db.run_async(conn, self._queries.waits.register(new, announce))
            self._announced_at = now if announce else self._announced_at
            self._has_registered = True
        self._unregistered -= new
        for job_id in new & self._watched.keys():
            self._watched[job_id].registered_at = now

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


async def _look(conn: db.AsyncConnection, looks: Looks) -> None:
    query = next(looks, None)
    while query is not None:
        answer = await db.run_async(conn, query)
        try:
            query = looks.send(answer)
        except StopIteration:
            return
