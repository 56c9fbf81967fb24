"""Who a process is to the others: its row, and the heartbeat that says it lives."""

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import TypeVar

from psycopg.conninfo import make_conninfo

from pgqueue import db
from pgqueue.config import take_deaths, take_worker_id
from pgqueue.db.failures import BROKEN, DATABASE_ERRORS, brief
from pgqueue.db.link import sever
from pgqueue.queries import Queries, Query
from pgqueue.queries.workers import WorkerInfo
from pgqueue.timing import Backoff, monotonic

log = logging.getLogger("pgqueue")
T = TypeVar("T")
BEATS = 4  # in a lease
SILENT = 0.75  # the share of a lease after which a process that could not beat must take itself for lost


def describe(kind: str, lease_seconds: float, queues: Sequence[str], tasks: Sequence[str], slots: int) -> WorkerInfo:
    """Return the row of this process, under an id that no other process or boot has."""
    boot = (take_worker_id() if kind == "worker" else None) or uuid.uuid4()  # its parent knows a process by its worker
    host, release = socket.gethostname(), version("pgqueue")
    return WorkerInfo(boot, kind, host, os.getpid(), release, queues, tasks, slots, lease_seconds)


class Identity:
    """The row of this process, and its heartbeat.

    The heartbeat has its own thread and its own connection, so that a blocked event loop, a busy interpreter or an
    exhausted pool does not lose it. A process that others have declared lost takes a new identity: `on_lost` is called,
    in the heartbeat's thread, with the old id. What it still holds under the old one is fenced. `look` is called there,
    too, before each beat: it returns the seconds since each duty last worked.
    """

    def __init__(
        self,
        database: db.Database,
        queries: Queries,
        info: WorkerInfo,
        on_lost: Callable[[uuid.UUID], object],
        look: Callable[[], Mapping[str, float | None]] = dict,
    ) -> None:
        self.info = info
        self._queries = queries
        self._on_lost = on_lost
        self._look = look
        self._database = replace(database, dsn=make_conninfo(database.dsn, **_impatient(info.lease_seconds)))
        self._conn: db.Connection | None = None
        self._beaten_at = monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="pgqueue-heartbeat", daemon=True)
        self._backoff = Backoff()

    @property
    def id(self) -> uuid.UUID:
        """The id under which jobs are claimed."""
        return self.info.id

    @property
    def silent(self) -> bool:
        """Whether the last heartbeat is so long ago that others may soon declare this process lost."""
        return monotonic() - self._beaten_at > SILENT * self.info.lease_seconds

    def start(self) -> None:
        """Insert the row, then beat. Raises if the database cannot be reached or is not migrated."""
        try:
            self._run(self._queries.schema.check())
            self._run(self._queries.workers.register(self.info))
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
        if self._thread.ident is not None:
            self._thread.join(timeout=1)
        if self._thread.is_alive():
            self.sever()  # it hangs in a beat; the row stays, and is declared lost in time
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
        """Cut the heartbeat's connection under a beat that hangs: the next one makes a new connection."""
        conn = self._conn
        if conn is not None:
            sever(conn)

    def beat(self) -> None:
        """Beat once; take a new identity if this one was declared lost."""
        if not self._run(self._queries.workers.heartbeat(self.id, self._look())):
            lost, reborn = self.id, replace(self.info, id=uuid.uuid4())
            self._run(self._queries.workers.register(reborn))
            self.info = reborn
            self._on_lost(lost)
        self._beaten_at = monotonic()

    def _run(self, query: Query[T]) -> T:
        if self._conn is None or self._conn.closed:
            self._conn = self._database.connect(f"pgqueue {self.info.kind} heartbeat")
        try:
            return db.run(self._conn, query)
        except BROKEN:
            self._conn.close()
            raise

    def _beat_on(self) -> None:
        delay = self.info.lease_seconds / BEATS
        while not self._stop.wait(delay):
            try:
                self.beat()
                self._backoff.reset()
                delay = self.info.lease_seconds / BEATS
            except Exception as error:  # noqa: BLE001 - whatever it is, a worker without a heartbeat is no use
                delay = min(self._backoff.next(), self.info.lease_seconds / BEATS)
                if self._backoff.failures == 1:
                    log.warning("heartbeat failed, trying again: %s: %s", type(error).__name__, brief(error))


def _impatient(lease_seconds: float) -> dict[str, int]:
    """Let libpq give up within a share of the lease on a server that does not answer."""
    patience = max(2, int(lease_seconds / BEATS))
    return {"connect_timeout": patience, "tcp_user_timeout": 1000 * patience, "keepalives_idle": patience}
