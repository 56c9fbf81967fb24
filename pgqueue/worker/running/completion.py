"""Completing a job in the task's own transaction."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from pgqueue import db
from pgqueue.app import App
from pgqueue.errors import LeaseLost
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.queries import Query
from pgqueue.tasks.context import Signals
from pgqueue.tasks.sealing import seal_resolution
from pgqueue.tasks.storable import encode_result


class Completion:
    """Behind `ctx.transaction()` of one attempt: ends the block with the resolve statement, fenced like any other."""

    def __init__(self, app: App, job: ClaimedJob, signals: Signals, *, pooled: bool = True) -> None:
        self._app = app
        self._job = job
        self._signals = signals
        self._pooled = pooled  # a child process has a new event loop for each job: no pool would last

    @contextmanager
    def transaction(self, result: Any) -> Iterator[db.Connection]:
        """Lend a connection in a transaction that completes the job."""
        queries = self._complete(result)
        with self._app.backend.pools.connection() as conn:
            with conn.transaction():
                yield conn
                for query in queries:
                    self._check(db.run(conn, query))
            self._signals.completed = True

    @asynccontextmanager
    async def atransaction(self, result: Any) -> AsyncIterator[db.AsyncConnection]:
        """Lend a connection in a transaction that completes the job."""
        queries = self._complete(result)
        async with self._async_connection() as conn:
            async with conn.transaction():
                yield conn
                for query in queries:
                    self._check(await db.run_async(conn, query))
            self._signals.completed = True

    @asynccontextmanager
    async def _async_connection(self) -> AsyncIterator[db.AsyncConnection]:
        if self._pooled:
            async with self._app.backend.pools.async_connection() as conn:
                yield conn
        else:
            async with await self._app.backend.database.connect_async("pgqueue job") as conn:
                yield conn

    def _complete(self, result: Any) -> list[Query[Any]]:
        """Return the statements that complete the job. Those that return ids must have moved it."""
        spec = self._app.tasks.get(self._job.task)
        text, error = spec.encode_result(result) if spec else encode_result(result)
        resolution = Resolution("succeed", result=text, error=error)
        if self._app.codec is not None:
            resolution = seal_resolution(self._app.codec, self._job.task, resolution)
        queries: list[Query[Any]] = [self._app.backend.queries.jobs.resolve([(self._job, resolution)])]
        if text is not None and spec is not None and spec.result_ttl is not None:
            queries.append(self._app.backend.queries.jobs.set_result_expiry({self._job.id: spec.result_ttl}))
        return queries

    def _check(self, moved: set[int] | None) -> None:
        if moved is not None and not moved:
            raise LeaseLost(f"job {self._job.id} is no longer this worker's: nothing was written")
