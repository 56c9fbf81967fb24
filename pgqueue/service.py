"""Background duties: one start/stop contract, one connection that comes back, one heartbeat."""

import asyncio
import logging
import os
import random
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from typing import TypeVar

import psycopg

from pgqueue import db
from pgqueue.errors import PgqueueError
from pgqueue.queries import Queries, Query
from pgqueue.queries.worker import WorkerInfo

log = logging.getLogger("pgqueue")
T = TypeVar("T")
DATABASE_ERRORS = (psycopg.Error, PgqueueError, OSError)


class Backoff:
    """Delays that grow while something fails: 0.1 s doubling to 5 s, each spread by half."""

    def __init__(self) -> None:
        self.failures = 0

    def next(self) -> float:
        """Return the delay after one more failure, in seconds."""
        self.failures += 1
        return min(0.1 * 2.0 ** min(self.failures - 1, 10), 5.0) * random.uniform(0.5, 1.5)  # noqa: S311

    def reset(self) -> None:
        """Forget the failures."""
        self.failures = 0


class Link:
    """One connection of a process, for one duty at a time; opened when first used, and again after it was lost."""

    def __init__(self, dsn: str, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._conn: db.AsyncConnection | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[db.AsyncConnection]:
        """Lend the connection. A failure or a cancellation in between drops it: its state is not known then."""
        async with self._lock:
            if self._conn is None or self._conn.closed:
                self._conn = await db.connect_async(self._dsn, self._name)
            try:
                yield self._conn
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError, asyncio.CancelledError):
                await self._drop()
                raise

    async def run(self, query: Query[T]) -> T:
        """Run one query in a transaction of its own."""
        async with self.connection() as conn:
            return await db.run_async(conn, query)

    async def close(self) -> None:
        """Close the connection."""
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with suppress(psycopg.Error, OSError):
                await conn.close()


class Service(ABC):
    """A duty that is done again and again: `tick` does it once and returns the seconds to wait before the next time.

    A failing tick is logged once, tried again with backoff, and logged again when it works. `wake` ends a wait.
    """

    name = "service"
    interruptible = False  # whether a tick may be cut off at any point when the process stops

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._backoff = Backoff()

    @abstractmethod
    async def tick(self) -> float:
        """Do the duty once; return the seconds to wait."""

    def wake(self) -> None:
        """Run the next tick now."""
        self._wake.set()

    def stop(self) -> None:
        """End after the tick in progress."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Tick until stopped."""
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                delay = await self.tick()
                if self._backoff.failures:
                    log.info("%s works again", self.name)
                    self._backoff.reset()
                await _wait(self._wake, delay)
            except DATABASE_ERRORS as error:
                await _wait(self._stopping, self._failed(error))

    def _failed(self, error: Exception) -> float:
        delay = self._backoff.next()
        if self._backoff.failures == 1:
            log.warning("%s failed, trying again: %s: %s", self.name, type(error).__name__, str(error).strip())
        return delay


async def _wait(event: asyncio.Event, seconds: float) -> None:
    if seconds <= 0:
        await asyncio.sleep(0)  # lets the others run
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def run_duties(duties: Sequence[Service], stopping: asyncio.Event, grace_seconds: float = 5.0) -> None:
    """Run duties side by side until `stopping` is set or one of them fails for a reason it does not retry.

    Each may finish the tick it is in; one that hangs longer than the grace is cancelled. Raises what a duty raised.
    """
    running = [asyncio.create_task(duty.run(), name=duty.name) for duty in duties]
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait([*running, stopped], return_when=asyncio.FIRST_COMPLETED)
    for duty, task in zip(duties, running, strict=True):
        duty.stop()
        if duty.interruptible:
            task.cancel()
    _, hanging = await asyncio.wait(running, timeout=grace_seconds)
    stopped.cancel()
    for task in hanging:
        task.cancel()
    results = await asyncio.gather(*running, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


class Partitions(Service):
    """Makes the daily partitions of the week ahead; the first time at once."""

    name = "partitions"

    def __init__(self, link: Link, queries: Queries) -> None:
        super().__init__()
        self._link = link
        self._queries = queries

    async def tick(self) -> float:
        """Make what is missing."""
        await self._link.run(self._queries.make_partitions())
        return 3600 * random.uniform(0.5, 1.0)  # noqa: S311


class Identity:
    """Who a process is to the others: its row, and the heartbeat that says it lives.

    The heartbeat has its own thread and its own connection, so that a blocked event loop, a busy interpreter or an
    exhausted pool does not lose it. A process that others have declared lost takes a new identity: `on_lost` is called,
    in the heartbeat's thread, with the old id. What it still holds under the old one is fenced.
    """

    def __init__(self, dsn: str, queries: Queries, info: WorkerInfo, on_lost: Callable[[uuid.UUID], object]) -> None:
        self.info = info
        self._dsn = dsn
        self._queries = queries
        self._on_lost = on_lost
        self._conn: db.Connection | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="pgqueue-heartbeat", daemon=True)
        self._backoff = Backoff()

    @property
    def id(self) -> uuid.UUID:
        """The id under which jobs are claimed."""
        return self.info.id

    def start(self) -> None:
        """Insert the row, then beat. Raises if the database cannot be reached or is not migrated."""
        self._conn = db.connect(self._dsn, f"pgqueue {self.info.kind} heartbeat")
        self._run(self._queries.ready())
        self._run(self._queries.register(self.info))
        self._thread.start()

    def stop(self) -> None:
        """Stop beating and delete the row."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)
        with suppress(*DATABASE_ERRORS):
            self._run(self._queries.unregister(self.id))
        if self._conn is not None:
            self._conn.close()

    def beat(self) -> None:
        """Beat once; take a new identity if this one was declared lost."""
        if self._run(self._queries.heartbeat(self.id)):
            return
        lost, reborn = self.id, replace(self.info, id=uuid.uuid4())
        self._run(self._queries.register(reborn))
        self.info = reborn
        self._on_lost(lost)

    def _run(self, query: Query[T]) -> T:
        if self._conn is None or self._conn.closed:
            self._conn = db.connect(self._dsn, f"pgqueue {self.info.kind} heartbeat")
        return db.run(self._conn, query)

    def _beat_on(self) -> None:
        delay = self.info.lease_seconds / 4
        while not self._stop.wait(delay):
            try:
                self.beat()
                self._backoff.reset()
                delay = self.info.lease_seconds / 4
            except DATABASE_ERRORS as error:
                delay = min(self._backoff.next(), self.info.lease_seconds / 4)
                if self._backoff.failures == 1:
                    log.warning("heartbeat failed, trying again: %s", str(error).strip())


def describe(kind: str, lease_seconds: float, queues: Sequence[str], tasks: Sequence[str], slots: int) -> WorkerInfo:
    """Return the row of this process, under an id that no other process or boot has."""
    return WorkerInfo(
        uuid.uuid4(), kind, socket.gethostname(), os.getpid(), version("pgqueue"), queues, tasks, slots, lease_seconds
    )


def monotonic() -> float:
    """Seconds on a clock that never steps back, for waits inside one process. Never compared with the database's."""
    return time.monotonic()
