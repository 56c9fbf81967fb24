"""Completing a job in the task's own transaction."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any
from uuid import uuid4

from pgqueue import db
from pgqueue.app import App
from pgqueue.client.joining import joining
from pgqueue.db.failures import brief
from pgqueue.errors import DatabaseUnreachable, LeaseLost, NotMigrated, UnsupportedConnection
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.jobs.step import undoes
from pgqueue.queries import Query
from pgqueue.queries.jobs import JobQueries
from pgqueue.queries.jobs.ties import TiedEnds
from pgqueue.tasks.context import Signals
from pgqueue.tasks.sealing import seal_resolution
from pgqueue.tasks.storable import encode_result
from pgqueue.timing import Backoff, monotonic

log = logging.getLogger("pgqueue.worker")
PATIENCE = 300.0  # seconds that a job waits for a connection before its attempt fails


class _Patience:
    """How long a job waits for a connection: where a role or server has too few, an attempt must not be spent on it."""

    def __init__(self, job: ClaimedJob, signals: Signals) -> None:
        self._job = job
        self._signals = signals
        self._until = min(monotonic() + PATIENCE, math.inf if signals.deadline is None else signals.deadline)
        self._backoff = Backoff()

    def delay(self, error: DatabaseUnreachable) -> float:
        """Return after how many seconds to try again. Raises `error` if the job must not wait any longer."""
        if monotonic() >= self._until or self._signals.cancelled:
            raise error
        delay = self._backoff.next()
        if self._backoff.failures == 1:
            log.warning("job %d waits for a connection: %s", self._job.id, brief(error))
        return delay


class Completion:
    """Behind `ctx.transaction()` of one attempt: ends the block with the resolve statement, fenced like any other."""

    outer = False  # whether a transaction may be around that of the task's own connection, as in a test

    def __init__(self, app: App, job: ClaimedJob, signals: Signals, *, pooled: bool = True) -> None:
        self._app = self.app = app
        self._job = job
        self._signals = signals
        self.pooled = pooled  # a child process has a new event loop for each job: no pool would last

    @contextmanager
    def transaction(self, result: Any) -> Iterator[db.Connection]:
        """Lend a connection in a transaction that completes the job."""
        with self.connection() as conn:
            with conn.transaction():
                mark = self._mark(conn)
                with joining(self._app, conn):
                    yield conn
                self._end(conn, mark, result)
            self._committed()

    @asynccontextmanager
    async def atransaction(self, result: Any) -> AsyncIterator[db.AsyncConnection]:
        """Lend a connection in a transaction that completes the job."""
        async with self.async_connection() as conn:
            async with conn.transaction():
                mark = await self._amark(conn)
                with joining(self._app, conn):
                    yield conn
                await self._aend(conn, mark, result)
            self._committed()

    def transaction_on(
        self, given: object, alias: str | None, result: Any
    ) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]:
        """Complete the job in the transaction of a connection of the task's own, or of Django's under an alias."""
        if alias is not None:
            given = db.django_connection(alias)
        return self._on_async(given, result) if db.is_async(given) else self._on(given, result)

    @contextmanager
    def _on(self, given: object, result: Any) -> Iterator[object]:
        with db.transaction_on(given, self._committed, outer=self.outer) as current:
            conn = current()
            with self._here():
                self._check_held(db.run(conn, self._queries.is_held(self._job)))
            mark = self._mark(conn)
            with joining(self._app, given):
                yield given
            self._end(current(), mark, result)

    @asynccontextmanager
    async def _on_async(self, given: object, result: Any) -> AsyncIterator[object]:
        async with db.transaction_on_async(given, self._committed, outer=self.outer) as current:
            conn = await current()
            with self._here():
                self._check_held(await db.run_async(conn, self._queries.is_held(self._job)))
            mark = await self._amark(conn)
            with joining(self._app, given):
                yield given
            await self._aend(await current(), mark, result)

    def _committed(self) -> None:
        self._signals.completed = True

    def _mark(self, conn: db.AnyConnection) -> str:
        mark = uuid4().hex
        db.run(conn, self._queries.mark_transaction(mark))
        return mark

    async def _amark(self, conn: db.AnyAsyncConnection) -> str:
        mark = uuid4().hex
        await db.run_async(conn, self._queries.mark_transaction(mark))
        return mark

    def _end(self, conn: db.AnyConnection, mark: str, result: Any) -> None:
        """Write the end of the job, if the transaction is still the one that has the mark."""
        db.check_open(conn, db.run(conn, self._queries.read_mark()) == mark)
        ends, others = self._complete(result)
        self._check(db.run(conn, ends[0]) or db.run(conn, ends[1]))
        for query in others:
            db.run(conn, query)

    async def _aend(self, conn: db.AnyAsyncConnection, mark: str, result: Any) -> None:
        """The async twin of `_end`."""
        db.check_open(conn, await db.run_async(conn, self._queries.read_mark()) == mark)
        ends, others = self._complete(result)
        self._check(await db.run_async(conn, ends[0]) or await db.run_async(conn, ends[1]))
        for query in others:
            await db.run_async(conn, query)

    @contextmanager
    def _here(self) -> Iterator[None]:
        """Say it of the connection, if the database that it leads to has no jobs."""
        try:
            yield
        except NotMigrated as error:
            raise UnsupportedConnection(
                "ctx.transaction() cannot use a connection to another database than the app's, where the job is: "
                f"{error}"
            ) from None

    def _check_held(self, held: bool) -> None:
        if not held:
            raise LeaseLost(
                f"job {self._job.id} is no longer this worker's, or the connection leads to another database than the "
                "app's: nothing was written"
            )

    @contextmanager
    def connection(self) -> Iterator[db.Connection]:
        """Lend a connection, as soon as there is one."""
        patience = _Patience(self._job, self._signals)
        with ExitStack() as stack:
            while True:
                try:
                    conn = stack.enter_context(self._app.backend.pools.lent())
                    break
                except DatabaseUnreachable as error:
                    time.sleep(patience.delay(error))
            yield conn

    @asynccontextmanager
    async def async_connection(self) -> AsyncIterator[db.AsyncConnection]:
        """Lend a connection, as soon as there is one."""
        patience = _Patience(self._job, self._signals)
        async with AsyncExitStack() as stack:
            while True:
                try:
                    if self.pooled:
                        conn = await stack.enter_async_context(self._app.backend.pools.async_lent())
                    else:
                        own = await self._app.backend.database.connect_async("pgqueue job")
                        await stack.enter_async_context(own)
                        conn = await stack.enter_async_context(db.lend_async(own))
                    break
                except DatabaseUnreachable as error:
                    await asyncio.sleep(patience.delay(error))
            yield conn

    @property
    def _queries(self) -> JobQueries:
        return self._app.backend.queries.jobs

    def _complete(self, result: Any) -> tuple[list[Query[set[int]]], list[Query[Any]]]:
        """Return the statements that complete the job, of which the second is for when the first moves nothing: it may
        have got ties since it was claimed, or none; and the statements that follow."""
        spec = self._app.tasks.get(self._job.task)
        text, error = spec.encode_result(result) if spec else encode_result(result)
        resolution = Resolution("succeed", result=text, error=error)
        if self._app.codec is not None:
            resolution = seal_resolution(self._app.codec, self._job.task, resolution)
        outcome, jobs = [(self._job, resolution)], self._queries
        ends = [jobs.resolve(outcome), _moved(jobs.resolve_tied(outcome))]
        if self._job.ties is not None:
            ends.reverse()
        others: list[Query[Any]] = []
        if undoes(self._job):
            others.append(self._app.backend.queries.steps.undo_ended([self._job.id]))
        if text is not None and spec is not None and spec.result_ttl is not None:
            others.append(jobs.set_result_expiry({self._job.id: spec.result_ttl}))
        return ends, others

    def _check(self, moved: set[int]) -> None:
        if not moved:
            raise LeaseLost(f"job {self._job.id} is no longer this worker's: nothing was written")


def _moved(query: Query[TiedEnds]) -> Query[set[int]]:
    """Return a statement that ends jobs with ties as one that returns the ids that it moved."""
    return Query(query.sql, lambda rows: query.read(rows).moved, query.params)
