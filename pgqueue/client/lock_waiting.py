"""Waiting for named locks: each waiter looks again and again, and a notification makes it look at once.

The notification is a hint. A waiter whose hint is lost looks a second later at the latest.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Protocol

from pgqueue import db
from pgqueue.client.wait_poller import in_gevent
from pgqueue.db.failures import brief
from pgqueue.db.link import DEADLINE, sever
from pgqueue.queries import Queries
from pgqueue.timing import Backoff

log = logging.getLogger("pgqueue.locks")
Wake = Callable[[], object]
LISTEN_SECONDS = 5.0  # for which the connection stays open after the last wait
# Kept after a fork: they are the parent's and must not be closed here.
_connections_of_parent: list[db.Connection] = []


class LockHintsSource(Protocol):
    """The parts of a backend that hints use."""

    @property
    def queries(self) -> Queries: ...
    @property
    def listen_database(self) -> db.Database | None: ...


class LockHints:
    """Hears of released locks for all waiters of a process: one thread that listens while there are some.

    Where LISTEN does not work, it hears nothing, and waiters only look.
    """

    def __init__(self, source: LockHintsSource) -> None:
        self._source = source
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._guard = threading.Lock()
        self._waiters: dict[str, set[Wake]] = {}
        self._listening = False
        self._thread: threading.Thread | None = None
        self._conn: db.Connection | None = None
        self._closed = threading.Event()

    @contextmanager
    def waiting(self, key: str) -> Iterator[threading.Event]:
        """Set the event when the lock may be free; and at the beginning, when it was not listened for until then."""
        event = threading.Event()
        with self._hearing(key, event.set):
            yield event

    @contextmanager
    def awaiting(self, key: str) -> Iterator[asyncio.Event]:
        """The twin of `waiting` for this event loop."""
        event, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(event.set)

        with self._hearing(key, wake):
            yield event

    @contextmanager
    def _hearing(self, key: str, wake: Wake) -> Iterator[None]:
        self._add(key, wake)
        try:
            yield
        finally:
            self._remove(key, wake)

    def close(self) -> None:
        """Close the connection. Waiters go on without hints."""
        if self._pid != os.getpid():
            return
        with self._guard:
            thread, conn = self._thread, self._conn
            self._closed.set()
        if conn is not None:
            sever(conn)
        if thread is not None:
            thread.join(DEADLINE)

    def _add(self, key: str, wake: Wake) -> None:
        if self._pid != os.getpid():
            if self._conn is not None:
                _connections_of_parent.append(self._conn)
            self._begin()
        database = None if in_gevent() else self._source.listen_database
        with self._guard:
            self._waiters.setdefault(key, set()).add(wake)
            if self._listening:
                wake()
            elif self._thread is None and database is not None:
                self._closed.clear()
                self._thread = threading.Thread(
                    target=self._main, args=(database,), name="pgqueue-lock-hints", daemon=True
                )
                self._thread.start()

    def _remove(self, key: str, wake: Wake) -> None:
        with self._guard:
            waiters = self._waiters.get(key, set())
            waiters.discard(wake)
            if not waiters:
                self._waiters.pop(key, None)

    def _main(self, database: db.Database) -> None:
        backoff = Backoff()
        while not self._is_over():
            try:
                self._listen(database)
                backoff.reset()
            except Exception as error:  # noqa: BLE001 - after any error waiters only look, and hints are tried again
                delay = backoff.next()
                if backoff.failures == 1 and not self._closed.is_set():
                    log.warning(
                        "no hints for named locks, waiters only look: %s: %s", type(error).__name__, brief(error)
                    )
                self._closed.wait(delay)
            finally:
                self._listening = False

    def _is_over(self) -> bool:
        """Whether nobody waits; the thread then ends, and the next waiter starts another."""
        with self._guard:
            over = not self._waiters or self._closed.is_set()
            if over:
                self._thread = None
            return over

    def _listen(self, database: db.Database) -> None:
        """Listen until nobody waits."""
        with closing(database.connect("pgqueue lock hints")) as conn:
            self._conn = conn
            try:
                db.run(conn, self._source.queries.locks.listen())
                with self._guard:
                    self._listening = True
                    self._wake_all()
                while self._waiters and not self._closed.is_set():
                    for notification in conn.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                        self._wake(notification.payload)
            finally:
                self._conn = None

    def _wake(self, key: str) -> None:
        with self._guard:
            for wake in self._waiters.get(key, ()):
                wake()

    def _wake_all(self) -> None:
        for waiters in self._waiters.values():
            for wake in waiters:
                wake()
