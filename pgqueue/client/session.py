"""A session: the connection that a caller's verbs run on, lent or our own."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from enum import Enum
from typing import TypeVar

from pgqueue import db
from pgqueue.client.admission import Admitted, Bulk, admit, admit_all, admit_all_async, admit_async
from pgqueue.client.app_parts import AppParts
from pgqueue.client.chunks import arrays
from pgqueue.client.new_job import as_existing, as_job
from pgqueue.client.waiting import WaitHandle
from pgqueue.db.steps import Steps, follow, follow_async
from pgqueue.errors import UnsupportedConnection
from pgqueue.events import JobEnqueued
from pgqueue.jobs.job import Job, NewJob
from pgqueue.queries import Query

T = TypeVar("T")


class Own(Enum):
    """Stands for "no connection was lent". Not None: a variable that happens to be None must not mean it."""

    CONNECTION = "a connection of pgqueue's own"


class Session:
    """Runs queries where the caller wants them: on `conn`, in its transaction, or on a connection of our own."""

    def __init__(self, home: AppParts, conn: object = Own.CONNECTION) -> None:
        if conn is None:
            raise UnsupportedConnection(
                "using(None): that is no connection. Leave it out for one of pgqueue's own, which commits at once"
            )
        self._home = home
        self._conn = conn
        self.handle = WaitHandle(home, committed=conn is Own.CONNECTION)

    @contextmanager
    def _connection(self) -> Iterator[db.Connection]:
        if self._conn is not Own.CONNECTION:
            yield db.borrow(self._conn)
        else:
            with self._home.backend.pools.connection() as own:
                yield own

    @asynccontextmanager
    async def _async_connection(self) -> AsyncIterator[db.AnyAsyncConnection]:
        if self._conn is not Own.CONNECTION:
            yield await db.borrow_async(self._conn)
        else:
            async with self._home.backend.pools.async_connection() as own:
                yield own

    def run(self, query: Query[T]) -> T:
        """Run one query."""
        if self._conn is Own.CONNECTION:
            return self._home.backend.pools.run(query)
        return db.run(db.borrow(self._conn), query)

    async def arun(self, query: Query[T]) -> T:
        """Run one query."""
        async with self._async_connection() as conn:
            return await db.run_async(conn, query)

    def perform(self, steps: Steps[T]) -> T:
        """Run queries one after the other in one transaction; what `steps` raises undoes those before it."""
        with self._connection() as conn, db.all_or_nothing(conn):
            return follow(conn, steps)

    async def aperform(self, steps: Steps[T]) -> T:
        """Run queries one after the other in one transaction; what `steps` raises undoes those before it."""
        async with self._async_connection() as conn, db.all_or_nothing_async(conn):
            return await follow_async(conn, steps)

    def insert(self, new: NewJob) -> Job:
        """Insert a job; one with terms may be met by another in its place."""
        queries = self._home.backend.queries
        if new.conditions is None and new.queue not in self._home.max_depth:
            return self.tell(as_job(new, self.run(queries.jobs.enqueue_one(new)), self.handle))
        with self._connection() as conn:
            follow(conn, self._home.depths.steps(queries, new.queue, 1))
            if new.conditions is None:
                return self.tell(as_job(new, db.run(conn, queries.jobs.enqueue_one(new)), self.handle))
            met = admit(conn, queries, new)
            if met.admitted:
                return self.tell(as_job(new, met.inserted, self.handle))
            found = db.run(conn, queries.jobs.get(met.id)) if met.readable else None
            return as_existing(new, met, found, self.handle)

    async def ainsert(self, new: NewJob) -> Job:
        """Insert a job; one with terms may be met by another in its place."""
        queries = self._home.backend.queries
        if new.conditions is None and new.queue not in self._home.max_depth:
            return self.tell(as_job(new, await self.arun(queries.jobs.enqueue_one(new)), self.handle))
        async with self._async_connection() as conn:
            await follow_async(conn, self._home.depths.steps(queries, new.queue, 1))
            if new.conditions is None:
                return self.tell(as_job(new, await db.run_async(conn, queries.jobs.enqueue_one(new)), self.handle))
            met = await admit_async(conn, queries, new)
            if met.admitted:
                return self.tell(as_job(new, met.inserted, self.handle))
            found = await db.run_async(conn, queries.jobs.get(met.id)) if met.readable else None
            return as_existing(new, met, found, self.handle)

    def insert_many(self, new: NewJob, blocks: Sequence[tuple[int, str]]) -> list[int]:
        """Insert jobs that are like `new` but for their arguments, in chunks, all of them or none.

        `blocks`: so many jobs, and their JSON objects separated by commas.
        """
        ids: list[int] = []
        queries = self._home.backend.queries
        with self._connection() as conn, db.all_or_nothing(conn):
            if new.queue in self._home.max_depth:
                follow(conn, self._home.depths.steps(queries, new.queue, _count(blocks)))
            for _, chunk in arrays(blocks):
                ids += self._tell_many(new, db.run(conn, queries.jobs.enqueue_many(new, chunk)))
        return ids

    async def ainsert_many(self, new: NewJob, blocks: Sequence[tuple[int, str]]) -> list[int]:
        """The async twin of `insert_many`."""
        ids: list[int] = []
        queries = self._home.backend.queries
        async with self._async_connection() as conn, db.all_or_nothing_async(conn):
            if new.queue in self._home.max_depth:
                await follow_async(conn, self._home.depths.steps(queries, new.queue, _count(blocks)))
            for _, chunk in arrays(blocks):
                ids += self._tell_many(new, await db.run_async(conn, queries.jobs.enqueue_many(new, chunk)))
        return ids

    def insert_all(self, bulk: Bulk) -> list[int]:
        """Insert jobs with terms, all of them or none."""
        if not len(bulk):
            return []
        queries = self._home.backend.queries
        with self._connection() as conn:
            follow(conn, self._home.depths.steps(queries, bulk.like.queue, len(bulk)))
            return self._tell_admitted(bulk.like, admit_all(conn, queries, bulk.admitted))

    async def ainsert_all(self, bulk: Bulk) -> list[int]:
        """The async twin of `insert_all`."""
        if not len(bulk):
            return []
        queries = self._home.backend.queries
        async with self._async_connection() as conn:
            await follow_async(conn, self._home.depths.steps(queries, bulk.like.queue, len(bulk)))
            return self._tell_admitted(bulk.like, await admit_all_async(conn, queries, bulk.admitted))

    def tell(self, job: Job) -> Job:
        """Tell listeners of a job that was inserted."""
        if self._home.listeners:
            self._home.listeners.emit(JobEnqueued(job.id, job.task, job.queue))
        return job

    def _tell_many(self, new: NewJob, ids: list[int]) -> list[int]:
        if self._home.listeners:
            for job_id in ids:
                self._home.listeners.emit(JobEnqueued(job_id, new.task, new.queue))
        return ids

    def _tell_admitted(self, like: NewJob, admitted: Admitted) -> list[int]:
        self._tell_many(like, admitted.new)
        return admitted.ids


def _count(blocks: Sequence[tuple[int, str]]) -> int:
    return sum(count for count, _ in blocks)
