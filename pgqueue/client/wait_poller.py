"""Waiting for jobs under gevent: by polling, in a greenlet and without an event loop.

gevent makes greenlets of threads. All of them share one thread of the system, and a loop that runs in one of them is
the running loop of all: `asyncio.run` and Django's ORM would refuse to work in any other.
"""

import logging
import os
import sys
import threading

from pgqueue import db
from pgqueue.client.watched import Looks, Waiter, WatchedJobs
from pgqueue.db.failures import DATABASE_ERRORS, brief
from pgqueue.db.link import DEADLINE, SPARE
from pgqueue.errors import DatabaseUnreachable, NotAllowed, NotMigrated
from pgqueue.queries import Queries
from pgqueue.timing import Backoff, monotonic

log = logging.getLogger("pgqueue.waits")
BATCH = 1000  # jobs in one statement


def in_gevent() -> bool:
    """Whether gevent has made greenlets of threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


class WaitPoller(WatchedJobs):
    """Waits for any number of jobs on one connection, which is open while there are some.

    If the first connection cannot be made, every waiter gets that error; a connection that is lost later is made again.
    """

    def __init__(self, database: db.Database, queries: Queries) -> None:
        super().__init__(queries)
        self.pid = os.getpid()
        self._database = database
        self._wake: threading.Event = threading.Event()
        self._stopping = False
        self._connected = False
        self._backoff = Backoff()
        self._conn: db.Connection | None = None
        self._thread = threading.Thread(target=self._main, name="pgqueue-waits", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it can be used: it belongs to this process and is not closed."""
        return self.pid == os.getpid() and self._thread.is_alive() and not self._stopping

    def add(self, waiter: Waiter) -> None:
        """Watch a waiter's job, and call the waiter when the job changes or ends."""
        self._add(waiter)

    def drop(self, waiter: Waiter) -> None:
        """Call a waiter no more."""
        self._drop(waiter)

    def close(self) -> None:
        """Stop, and close the connection. Jobs still waited for fail with DatabaseUnreachable: the app was closed."""
        self._stopping = True
        self._wake.set()
        self._thread.join(DEADLINE)

    def _main(self) -> None:
        why: Exception = DatabaseUnreachable("the app was closed while this waited for a job")
        try:
            while not self._stopping:
                self._wake.clear()
                self._wake.wait(self._turn())
        except Exception as error:
            log.exception("waiting for jobs failed in an unforeseen way")
            why = error
        self._stopping = True
        self._close()
        self._fail(why)

    def _turn(self) -> float | None:
        """Look at the jobs that are due; return the seconds to the next look. None: no job is waited for."""
        try:
            due = self._due()
            for start in range(0, len(due), BATCH):
                self._follow(self._look(due[start : start + BATCH]))
            self._backoff.reset()
        except DATABASE_ERRORS as error:
            return self._failed(error)
        if not self._watched:
            self._close()
            return 0.0 if self._watched else None
        return 0.0 if self._urgent else max(self._next_look - monotonic(), 0.0)

    def _follow(self, looks: Looks) -> None:
        if self._conn is None or self._conn.closed:
            self._conn = self._database.connect("pgqueue waits", DEADLINE - SPARE)
            self._connected = True
        self._unregistered.clear()  # a wait is registered to be notified, and here nobody listens
        query = next(looks, None)
        while query is not None:
            answer = db.run(self._conn, query)
            try:
                query = looks.send(answer)
            except StopIteration:
                return

    def _failed(self, error: Exception) -> float | None:
        """Return the seconds after which to try again; None if that cannot help."""
        self._close()
        if isinstance(error, (NotMigrated, NotAllowed)) or not self._connected:
            self._fail(error)
            return None
        self._urgent.update(self._watched)
        delay = self._backoff.next()
        if self._backoff.failures == 1:
            log.warning("waiting for jobs failed, trying again: %s: %s", type(error).__name__, brief(error))
        return delay

    def _close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()
