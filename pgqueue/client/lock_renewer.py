"""The renewer: one thread that renews all named locks which its process holds, whether threads or asyncio tasks hold
them.

It has a connection of its own and is no asyncio task, for the reasons of the heartbeat: a blocked event loop or a full
pool must not end a lock whose block still runs.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import psycopg

from pgqueue import db
from pgqueue.db.failures import brief
from pgqueue.db.link import DEADLINE, sever
from pgqueue.queries import Queries
from pgqueue.timing import Backoff, monotonic

log = logging.getLogger("pgqueue.locks")
SHARE = 1 / 3  # of its time to live, after which a lock is renewed
LEAST_DEADLINE = 1.0  # seconds
LOCKED_SECONDS = 0.1  # until a renewal is tried again that found the row locked
IDLE_SECONDS = 5.0  # after which a renewer without locks ends
# Kept after a fork: they are the parent's and must not be closed here.
_connections_of_parent: list[db.Connection] = []


@dataclass(eq=False, slots=True)
class Hold:
    """One holding of a lock. Until `deadline`, by the monotonic clock, nobody else can have taken it.

    It counts from before the statement was sent, so the database's clock allows more.
    """

    key: str
    owner: UUID
    ttl: float
    token: int
    deadline: float
    renew_at: float
    tell_lost: Callable[[str], None]  # told once, by whoever finds out that it was lost, why it was
    told: bool = False
    gone: bool = False  # the database does not have it under this owner any more
    over: bool = False  # its block has ended
    pid: int = field(default_factory=os.getpid)

    @property
    def held(self) -> bool:
        """Whether it was renewed in time, and is there. A forked child does not hold what its parent holds."""
        return not (self.gone or self.over) and monotonic() < self.deadline and self.pid == os.getpid()

    @property
    def lost_why(self) -> str:
        """Why it is not held."""
        if self.pid != os.getpid():
            return "a forked process does not hold the locks of its parent"
        if self.over:
            return "its block has ended"
        if self.gone:
            return "it was not renewed in time and another has taken it, or an operator has released it"
        return f"it could not be renewed within its {self.ttl:g} s"


class RenewerSource(Protocol):
    """The parts of a backend that a renewer uses."""

    @property
    def queries(self) -> Queries: ...
    @property
    def database(self) -> db.Database: ...


class LockRenewer:
    """Renews locks until they are dropped, and frees those whose holders could not release them.

    The thread starts with the first lock, its connection with the first renewal; both end when no lock is left.
    """

    waits = True  # whether it makes sense to wait for a lock: not in a test, where nobody can release it meanwhile

    def __init__(self, source: RenewerSource) -> None:
        self._source = source
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._guard = threading.Lock()
        self._holds: set[Hold] = set()
        self._left: list[Hold] = []  # to be released, as far as they were taken
        self._wake = threading.Event()
        self._wakes_at = 0.0
        self._ends = False
        self._thread: threading.Thread | None = None
        self._conn: db.Connection | None = None
        self._backoff = Backoff()

    def _forget_parent(self) -> None:
        if self._conn is not None:
            _connections_of_parent.append(self._conn)
        self._begin()

    def add(self, hold: Hold) -> None:
        """Renew a lock from now on."""
        with self._own_guard():
            self._holds.add(hold)
            self._run_until(hold.renew_at)

    def drop(self, hold: Hold) -> None:
        """Renew a lock no more."""
        with self._own_guard():
            self._holds.discard(hold)

    def free(self, hold: Hold) -> None:
        """Release a lock in the background, now or until it expires: its holder could not, or does not know whether it
        has been taken at all."""
        with self._own_guard():
            self._holds.discard(hold)
            hold.renew_at = 0.0
            self._left.append(hold)
            self._run_until(0.0)

    def close(self) -> None:
        """Close the connection, unless locks are held: they are renewed as long as their blocks run."""
        with self._own_guard():
            self._ends = True
            thread = self._thread
            self._wake.set()
        if thread is not None and not self._holds:
            thread.join(DEADLINE)

    @contextmanager
    def _own_guard(self) -> Iterator[None]:
        """Guard the state of this process: a forked child begins with none."""
        if self._pid != os.getpid():
            self._forget_parent()
        with self._guard:
            yield

    def _run_until(self, due: float) -> None:
        """Let the thread act at a time."""
        self._ends = False
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="pgqueue-locks", daemon=True)
            self._thread.start()
        elif due < self._wakes_at:
            self._wake.set()

    def _main(self) -> None:
        while (pause := self._pause()) is not None:
            self._wake.wait(pause)
            self._wake.clear()
            self._turn()

    def _pause(self) -> float | None:
        """Return for how long nothing is to be done; None to end the thread."""
        with self._guard:
            now = monotonic()
            busy = bool(self._holds or (self._left and not self._ends))
            if not busy and (self._ends or 0 < self._wakes_at <= now):
                self._thread, self._wakes_at = None, 0.0
                self._drop_connection()
                return None
            due = min((hold.renew_at for hold in (*self._holds, *self._left)), default=now + IDLE_SECONDS)
            self._wakes_at = due
            return max(due - now, 0.0)

    def _turn(self) -> None:
        """Renew what is due, and release what is left."""
        now = monotonic()
        with self._guard:
            left = [hold for hold in self._left if hold.renew_at <= now]
            due = [hold for hold in self._holds if hold.renew_at <= now]
        try:
            if due:
                self._renew(due)
            for hold in left:
                self._release(hold)
            self._backoff.reset()
        except Exception as error:  # noqa: BLE001 - after any error the locks must be renewed all the same
            self._failed([*due, *left], error)

    def _renew(self, due: list[Hold]) -> None:
        deadline = max(min(hold.ttl for hold in due) * SHARE, LEAST_DEADLINE)
        with self._connection(deadline) as conn:
            sent = monotonic()
            renewals = db.run(conn, self._source.queries.locks.renew([(h.owner, h.key, h.ttl) for h in due]))
        for hold in due:
            renewal = renewals[hold.owner]
            if renewal.renewed:
                hold.deadline, hold.renew_at = sent + hold.ttl, sent + hold.ttl * SHARE
            elif renewal.held:
                hold.renew_at = monotonic() + LOCKED_SECONDS
            else:
                self._lost(hold)

    def _lost(self, hold: Hold) -> None:
        hold.gone = True
        with self._guard:
            why = hold.lost_why  # before its block can end
            hold.told = hold in self._holds  # otherwise its holder has released it meanwhile
            self._holds.discard(hold)
        if hold.told:
            log.warning("lock %r with token %d was lost: %s", hold.key, hold.token, why)
            # In a thread of its own: a listener that takes long must not hold up the renewal of other locks.
            threading.Thread(target=hold.tell_lost, args=(why,), name="pgqueue-lock-lost", daemon=True).start()

    def _release(self, hold: Hold) -> None:
        if monotonic() < hold.deadline:
            with self._connection(LEAST_DEADLINE) as conn:
                db.run(conn, self._source.queries.locks.release(hold.key, hold.owner))
        with self._guard, suppress(ValueError):
            self._left.remove(hold)

    def _failed(self, holds: list[Hold], error: Exception) -> None:
        self._drop_connection()
        delay = self._backoff.next()
        if self._backoff.failures == 1:
            log.warning("renewing locks failed, trying again: %s: %s", type(error).__name__, brief(error))
        for hold in holds:
            hold.renew_at = monotonic() + min(delay, hold.ttl * SHARE)

    @contextmanager
    def _connection(self, deadline: float) -> Iterator[db.Connection]:
        """Give the connection for at most so many seconds: a network that drops every packet must not stop the rest."""
        if self._conn is None or self._conn.closed:
            self._conn = self._source.database.connect("pgqueue locks", DEADLINE)
        timer = threading.Timer(deadline, sever, [self._conn])
        timer.daemon = True
        timer.start()
        try:
            yield self._conn
        finally:
            timer.cancel()

    def _drop_connection(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with suppress(psycopg.Error, OSError):
                conn.close()
