"""One heartbeat for many schemas of a server: two threads and two connections, however many rows the process has."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar
from uuid import UUID

from pgqueue import db
from pgqueue.db.failures import BROKEN, DATABASE_ERRORS
from pgqueue.db.link import sever
from pgqueue.process.heartbeat import BEATS, Identity, Vitals, impatient
from pgqueue.queries import Queries, Query
from pgqueue.queries.workers import Beat, Request, Watched, WorkerInfo
from pgqueue.timing import monotonic

T = TypeVar("T")


class _Heart:
    """A thread that beats for several identities in turn, on one connection. `rejoin` takes each after its beat."""

    def __init__(
        self, database: db.Database, deadline: float, rejoin: "Callable[[SharedIdentity, float], object]"
    ) -> None:
        self._database = database
        self._deadline = deadline
        self._rejoin = rejoin
        self._conn: db.Connection | None = None
        self._using = threading.Lock()  # the connection
        self._changed = threading.Condition()
        self._next: dict[SharedIdentity, float] = {}  # when each is to beat, by the monotonic clock
        self._closed = False
        self._thread: threading.Thread | None = None

    def join(self, identity: "SharedIdentity", delay: float) -> None:
        with self._changed:
            self._next[identity] = monotonic() + delay
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat_on, name="pgqueue-heartbeat", daemon=True)
                self._thread.start()
            self._changed.notify()

    def leave(self, identity: "SharedIdentity") -> None:
        with self._changed:
            self._next.pop(identity, None)

    def beat_soon(self, identity: "SharedIdentity") -> None:
        with self._changed:
            if identity in self._next:
                self._next[identity] = 0.0
                self._changed.notify()

    @property
    def beats(self) -> bool:
        return self._thread is None or self._thread.is_alive()

    def run(self, query: Query[T]) -> T:
        with self._using:
            if self._conn is None or self._conn.closed:
                self._conn = self._database.connect("pgqueue worker heartbeat", self._deadline)
            try:
                return db.run(self._conn, query)
            except BROKEN:
                self._conn.close()
                raise

    def sever(self) -> None:
        if (conn := self._conn) is not None and self._using.locked():
            sever(conn)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=1)
        self.sever()
        if self._using.acquire(timeout=1):
            if self._conn is not None:
                self._conn.close()
            self._using.release()

    def _beat_on(self) -> None:
        while (identity := self._wait_for_next()) is not None:
            self._rejoin(identity, identity.beat_on(self))

    def _wait_for_next(self) -> "SharedIdentity | None":
        """Wait until an identity is to beat, and take it out; None when this is closed."""
        with self._changed:
            while not self._closed:
                identity = min(self._next, key=lambda one: self._next[one], default=None)
                delay = None if identity is None else self._next[identity] - monotonic()
                if identity is not None and delay is not None and delay <= 0:
                    del self._next[identity]
                    return identity
                self._changed.wait(delay)
        return None


class Hearts:
    """Beats for all identities of a process in one database. Those of which the last beat has failed have a thread and
    a connection for themselves: a beat may wait two seconds for a lock, and holds up none that is well."""

    def __init__(self, database: db.Database, lease_seconds: float) -> None:
        patient, deadline = database.with_parameters(**impatient(lease_seconds)), lease_seconds / BEATS
        self._well, self.ill = _Heart(patient, deadline, self.join), _Heart(patient, deadline, self.join)

    def join(self, identity: "SharedIdentity", delay: float) -> None:
        """Beat for an identity in `delay` seconds, unless it has stopped."""
        if not identity.has_stopped:
            (self.ill if identity.fails else self._well).join(identity, delay)

    def leave(self, identity: "SharedIdentity") -> None:
        """Beat for an identity no longer. A beat in progress may still end."""
        self._well.leave(identity)
        self.ill.leave(identity)

    def beat_soon(self, identity: "SharedIdentity") -> None:
        """Let an identity beat now."""
        self._well.beat_soon(identity)
        self.ill.beat_soon(identity)

    @property
    def beats(self) -> bool:
        """Whether the threads run, be the database there or not."""
        return self._well.beats and self.ill.beats

    def close(self) -> None:
        """End the threads, and close the connections."""
        self._well.close()
        self.ill.close()


class SharedIdentity(Identity):
    """The row of this process in one of several schemas. `deaths`: how earlier processes of the supervisor ended.

    `watches` is asked before each beat: with the names of queues, the beat also looks whether there is something to do,
    and `on_found` is called, in the thread of the heart, if there is. So a schema that is idle is asked one statement.
    """

    def __init__(
        self, hearts: Hearts, database: db.Database, queries: Queries, info: WorkerInfo, deaths: Mapping[UUID, str]
    ) -> None:
        super().__init__(database, queries, info)
        self._hearts = hearts
        self._heart = hearts.ill
        self._deaths = deaths
        self.watches: Callable[[], Sequence[str] | None] = lambda: None
        self.on_found: Callable[[Watched], object] = lambda _: None
        self.on_failure: Callable[[Exception], object] = lambda _: None
        self.on_recovery: Callable[[], object] = lambda: None

    @property
    def beats(self) -> bool:
        """Whether the threads of the heartbeat run, be the database there or not."""
        return self._hearts.beats

    @property
    def fails(self) -> bool:
        """Whether the last beat has failed."""
        return self._backoff.failures > 0

    @property
    def has_stopped(self) -> bool:
        """Whether it is to beat no longer."""
        return self._stop.is_set()

    def start(
        self,
        on_lost: Callable[[UUID], object] = lambda _: None,
        vitals: Callable[[], Vitals] = Vitals,
        on_request: Callable[[Request], object] = lambda _: None,
    ) -> None:
        """Insert the row, then beat. As `Identity.start`."""
        self._on_lost, self._vitals, self._on_request = on_lost, vitals, on_request
        self._context = copy_context()
        self._register(self.info)
        if self._deaths:
            self._run(self._queries.workers.record_deaths(self._deaths))
        self._beaten_at = monotonic()
        self._hearts.join(self, self.info.lease_seconds / BEATS)

    def stop(self) -> None:
        """Stop beating and delete the row, if that can be done within seconds."""
        self._stop.set()
        self._hearts.leave(self)
        self._heart = self._hearts.ill
        with suppress(*DATABASE_ERRORS):
            self._run(self._queries.workers.unregister(self.id))

    def sever(self) -> None:
        """Cut the connection of the beats that fail, if one hangs."""
        self._hearts.ill.sever()

    def beat_soon(self) -> None:
        """Let the heart beat now for this identity."""
        self._wake.set()
        self._hearts.beat_soon(self)

    def beat_on(self, heart: _Heart) -> float:
        """Beat once on a heart; return the seconds until the next time."""
        self._heart = heart
        self._wake.clear()
        delay = self._context.copy().run(self._try_to_beat)
        return 0.0 if self._wake.is_set() else delay

    def _heartbeat(self, vitals: Vitals) -> Query[Beat]:
        plain = super()._heartbeat(vitals)
        if (queues := self.watches()) is None:
            return plain
        watch = self._queries.workers.watch(plain, queues)
        return Query(watch.sql, lambda rows: self._noted(watch.read(rows)), watch.params)

    def _noted(self, found: Watched) -> Beat:
        if found.lost or found.metered or found.due_seconds is not None:
            self.on_found(found)
        return found.beat

    def _run(self, query: Query[T]) -> T:
        return self._heart.run(query)

    def _tell_of(self, error: Exception) -> None:
        self.on_failure(error)

    def _tell_that_it_works(self) -> None:
        self.on_recovery()
