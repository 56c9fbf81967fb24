"""The row by which other processes know this one, and the heartbeat that shows that it lives."""

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from pgqueue import db
from pgqueue.config import release, take_deaths, take_worker_id
from pgqueue.db.failures import BROKEN, DATABASE_ERRORS, brief
from pgqueue.db.link import sever
from pgqueue.errors import ReleaseTooOld
from pgqueue.process.memory import resident_bytes
from pgqueue.process.window import check_window
from pgqueue.queries import Queries, Query
from pgqueue.queries.workers import Beat, Request, WorkerInfo
from pgqueue.timing import Backoff, monotonic

log = logging.getLogger("pgqueue")
T = TypeVar("T")
BEATS = 4  # heartbeats in a lease
OVERDUE_SHARE = 0.75  # of a lease without a heartbeat: the process must assume that it will be declared lost


def describe_process(
    kind: str, lease_seconds: float, queues: Sequence[str], tasks: Sequence[str], slots: int
) -> WorkerInfo:
    """Return the row of this process, under an id that no other process or boot has."""
    given = take_worker_id() if kind == "worker" else None  # by a supervisor, which reports its death under this id
    host = socket.gethostname()
    return WorkerInfo(given or uuid.uuid4(), kind, host, os.getpid(), release(), queues, tasks, slots, lease_seconds)


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a heartbeat tells of its process: how many seconds ago each duty last worked, and whether it is quiet."""

    ages: Mapping[str, float | None] = field(default_factory=dict)
    quiet: bool = False


def _ignore(_: object) -> None:
    """Do nothing: the identity has not started."""


class Identity:
    """The row of this process, its id, and its heartbeat.

    The heartbeat has its own thread and its own connection, so that a blocked event loop, a busy interpreter or an
    exhausted pool does not delay it. A process that others have declared lost takes a new id. Its writes for jobs that
    it claimed under the old one are fenced. The answer to a beat brings what an operator asks of the process.
    """

    def __init__(self, database: db.Database, queries: Queries, info: WorkerInfo) -> None:
        self.info = info
        self._queries = queries
        self._on_lost: Callable[[uuid.UUID], object] = _ignore
        self._on_request: Callable[[Request], object] = _ignore
        self._vitals: Callable[[], Vitals] = Vitals
        self._followed: datetime | None = None  # when the last request that was followed was made
        self._database = database.with_parameters(**impatient(info.lease_seconds))
        self._conn: db.Connection | None = None
        self._beaten_at = monotonic()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._context = copy_context()
        self._thread = threading.Thread(target=self._beat_in_context, name="pgqueue-heartbeat", daemon=True)
        self._backoff = Backoff()
        self.failures = 0  # heartbeats that did not get through

    @property
    def id(self) -> uuid.UUID:
        """The id under which this process claims jobs."""
        return self.info.id

    @property
    def overdue(self) -> bool:
        """Whether the last heartbeat is so long ago that others may soon declare this process lost."""
        return monotonic() - self._beaten_at > OVERDUE_SHARE * self.info.lease_seconds

    @property
    def beats(self) -> bool:
        """Whether the thread of the heartbeat runs, be the database there or not."""
        return self._thread.is_alive()

    def start(
        self,
        on_lost: Callable[[uuid.UUID], object] = _ignore,
        vitals: Callable[[], Vitals] = Vitals,
        on_request: Callable[[Request], object] = _ignore,
    ) -> None:
        """Insert the row, then beat. Raises if the database cannot be reached, is not migrated, or
        has no place for this release.

        All three are called in the heartbeat's thread: `vitals` before each beat, `on_lost` with the old id when the
        process has taken a new one, and `on_request` once for each request.
        """
        self._on_lost, self._vitals, self._on_request = on_lost, vitals, on_request
        self._context = copy_context()
        try:
            self._register(self.info)
            if deaths := take_deaths():
                self._run(self._queries.workers.record_deaths(deaths))
        except BaseException:
            if self._conn is not None:
                self._conn.close()
            raise
        self._beaten_at = monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Stop beating and delete the row, if that can be done within seconds."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=1)
        if self._thread.is_alive():
            self.sever()  # it hangs in a beat; the row stays until another process declares it lost
            return
        watchdog = threading.Timer(2, self.sever)
        watchdog.start()
        with suppress(*DATABASE_ERRORS):
            if self._conn is not None and not self._conn.closed:
                db.run(self._conn, self._queries.workers.unregister(self.id))
        watchdog.cancel()
        if self._conn is not None:
            self._conn.close()

    def sever(self) -> None:
        """Cut the heartbeat's connection under a beat that hangs. The next beat makes a new connection."""
        conn = self._conn
        if conn is not None:
            sever(conn)

    def beat_soon(self) -> None:
        """Let the heartbeat's thread beat now: this process has news, or somebody may have asked something of it."""
        self._wake.set()

    def beat(self) -> None:
        """Beat once; take a new id if this one was declared lost; follow a request that is new."""
        vitals = self._vitals()
        beat = self._run(self._heartbeat(vitals))
        if beat.request is not None and beat.request.at != self._followed:
            self._followed = beat.request.at
            self._on_request(beat.request)
        if not beat.alive and not self._stop.is_set():  # a worker that has just left has no row
            lost, reborn = self.id, replace(self.info, id=uuid.uuid4())
            self._register(reborn)
            self.info = reborn
            self._on_lost(lost)
        self._beaten_at = monotonic()

    def _heartbeat(self, vitals: Vitals) -> Query[Beat]:
        return self._queries.workers.heartbeat(self.id, vitals.ages, quiet=vitals.quiet, rss_bytes=resident_bytes())

    def _register(self, info: WorkerInfo) -> None:
        """Insert the row, if this release may work on the schema. Raises NotMigrated or ReleaseTooOld."""
        schema, workers = self._queries.schema, self._queries.workers
        check_window(self._run(schema.check()))
        self._run(workers.register(info))
        try:
            check_window(self._run(schema.check()))  # a contract migration did not see the row, or is seen here
        except ReleaseTooOld:
            self._run(workers.unregister(info.id))
            raise

    def _run(self, query: Query[T]) -> T:
        if self._conn is None or self._conn.closed:
            deadline = self.info.lease_seconds / BEATS
            self._conn = self._database.connect(f"pgqueue {self.info.kind} heartbeat", deadline)
        try:
            return db.run(self._conn, query)
        except BROKEN:
            self._conn.close()
            raise

    def _beat_in_context(self) -> None:
        """Run in the thread, in the context of whoever has started this, as an asyncio task would."""
        self._context.run(self._beat_on)

    def _beat_on(self) -> None:
        delay = self.info.lease_seconds / BEATS
        while True:
            self._wake.wait(delay)
            self._wake.clear()
            if self._stop.is_set():
                return
            delay = self._try_to_beat()

    def _try_to_beat(self) -> float:
        """Beat once; return the seconds until the next time."""
        try:
            self.beat()
            if self._backoff.failures:
                self._tell_that_it_works()
            self._backoff.reset()
            return self.info.lease_seconds / BEATS
        except Exception as error:  # noqa: BLE001 - a worker whose heartbeat has stopped for any reason is of no use
            self.failures += 1
            delay = min(self._backoff.next(), self.info.lease_seconds / BEATS)
            if self._backoff.failures == 1:
                self._tell_of(error)
            return delay

    def _tell_of(self, error: Exception) -> None:
        log.warning("heartbeat failed, trying again: %s: %s", type(error).__name__, brief(error))

    def _tell_that_it_works(self) -> None:
        log.info("heartbeat works again")


def impatient(lease_seconds: float) -> dict[str, int]:
    """Let libpq give up within a share of the lease on a server that does not answer."""
    patience = max(2, int(lease_seconds / BEATS))
    return {"connect_timeout": patience, "tcp_user_timeout": 1000 * patience, "keepalives_idle": patience}
