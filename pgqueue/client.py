"""The verbs of a caller: enqueue and get, in the caller's transaction or on a connection of our own."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any, Protocol, TypeVar

from pydantic_core import from_json

from pgqueue import db
from pgqueue.admission import (
    Admitted,
    Bulk,
    Depths,
    Steps,
    admit,
    admit_all,
    admit_all_async,
    admit_async,
    arrays,
    follow,
    follow_async,
)
from pgqueue.config import check_name
from pgqueue.errors import InvalidOption, UnknownJob, UnsupportedConnection
from pgqueue.events import JobEnqueued, Listeners
from pgqueue.job import Job, JobState, NewJob
from pgqueue.options import Options
from pgqueue.outcome import seconds
from pgqueue.queries import Queries, Query
from pgqueue.queries.enqueue import Inserted
from pgqueue.queries.terms import Entry
from pgqueue.storing import check_json_object
from pgqueue.tasks import Tasks, TaskSpec
from pgqueue.waiting import WaitHandle, Waits

T = TypeVar("T")


class Own(Enum):
    """Stands for "no connection was lent". Not None: a variable that happens to be None must not mean it."""

    CONNECTION = "a connection of pgqueue's own"


class Home(Protocol):
    """What the verbs need of an app."""

    queries: Queries
    tasks: Tasks
    pools: db.Pools
    listeners: Listeners
    queue: str
    max_attempts: int
    retention: dict[str, int | None]
    max_depth: dict[str, int]
    depths: Depths
    max_args_bytes: int
    waits: Waits

    @property
    def database(self) -> db.Database: ...


def new_job(
    args: str,
    options: Options,
    spec: TaskSpec | None,
    name: str,
    home: Home,
    values: Mapping[str, Any] = {},
    at: int | None = None,
) -> NewJob:
    """Make the job of one call: options first, then the task's settings, then the app's.

    `values` are the arguments as Python has them, for rules that make keys of them; `at` says which of many it is.
    """
    queue = options.queue or (spec.queue if spec else home.queue)
    return NewJob(
        task=name,
        args=args,
        queue=queue,
        priority=options.priority if options.priority is not None else (spec.priority if spec else 0),
        max_attempts=options.max_attempts or (spec.max_attempts if spec else home.max_attempts),
        run_at=options.run_at,
        delay=None if options.delay is None else seconds(options.delay),
        tags=tuple(options.tags) if options.tags is not None else (spec.tags if spec else ()),
        history=home.retention.get(queue) is None and (spec is None or spec.retention is None),
        terms=None if options.rules is None else options.rules.terms(name, partial(_whole, spec, args), values, at),
        version=spec.version if spec else options.version or 1,
    )


def _whole(spec: TaskSpec | None, args: str) -> dict[str, Any]:
    whole: dict[str, Any] = spec.whole(args) if spec else json.loads(args)
    return whole


def as_job(new: NewJob, row: Inserted, handle: WaitHandle | None = None) -> Job:
    """Return the job that was just inserted, as a reader would see it."""
    return Job(
        id=row.id,
        task=new.task,
        queue=new.queue,
        priority=new.priority,
        state=JobState.PENDING,
        phase="scheduled" if row.run_at > row.created_at else "pending",
        args=from_json(new.args),
        tags=new.tags,
        run_at=row.run_at,
        created_at=row.created_at,
        attempt=0,
        max_attempts=new.max_attempts,
        handle=handle,
    )


def as_existing(new: NewJob, met: Entry, found: Job | None, handle: WaitHandle) -> Job:
    """Return the job that was there already. Of one that is gone, or that this role may not read, what is known."""
    if found is not None:
        return replace(found, existing=True, handle=handle)
    known = as_job(new, met.inserted, handle)
    if met.readable:
        return replace(known, existing=True, state=JobState.SUCCEEDED, phase="pruned", reason="it has ended")
    return replace(known, existing=True, phase="unknown")


class Session:
    """Runs queries where the caller wants them: on `conn`, in its transaction, or on a connection of our own."""

    def __init__(self, home: Home, conn: object = Own.CONNECTION) -> None:
        if conn is None:
            raise UnsupportedConnection(
                "using(None): that is no connection. Leave it out for one of pgqueue's own, which commits at once"
            )
        self._home = home
        self._conn = conn
        self.handle = WaitHandle(home.waits, committed=conn is Own.CONNECTION)

    def _own_database(self) -> db.Database:
        return self._home.database

    @contextmanager
    def _connection(self) -> Iterator[db.Connection]:
        if self._conn is not Own.CONNECTION:
            yield db.borrow(self._conn)
        else:
            with self._home.pools.connection(self._home.database) as own:
                yield own

    @asynccontextmanager
    async def _async_connection(self) -> AsyncIterator[db.AnyAsyncConnection]:
        if self._conn is not Own.CONNECTION:
            yield await db.borrow_async(self._conn)
        else:
            async with self._home.pools.async_connection(self._home.database) as own:
                yield own

    def run(self, query: Query[T]) -> T:
        """Run one query."""
        if self._conn is Own.CONNECTION:
            return self._home.pools.run(self._own_database, query)
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
        queries = self._home.queries
        if new.terms is None and new.queue not in self._home.max_depth:
            return self.tell(as_job(new, self.run(queries.enqueue_one(new)), self.handle))
        with self._connection() as conn:
            follow(conn, self._home.depths.steps(queries, new.queue, 1))
            if new.terms is None:
                return self.tell(as_job(new, db.run(conn, queries.enqueue_one(new)), self.handle))
            met = admit(conn, queries, new)
            if met.entered:
                return self.tell(as_job(new, met.inserted, self.handle))
            found = db.run(conn, queries.get_job(met.id)) if met.readable else None
            return as_existing(new, met, found, self.handle)

    async def ainsert(self, new: NewJob) -> Job:
        """Insert a job; one with terms may be met by another in its place."""
        queries = self._home.queries
        if new.terms is None and new.queue not in self._home.max_depth:
            return self.tell(as_job(new, await self.arun(queries.enqueue_one(new)), self.handle))
        async with self._async_connection() as conn:
            await follow_async(conn, self._home.depths.steps(queries, new.queue, 1))
            if new.terms is None:
                return self.tell(as_job(new, await db.run_async(conn, queries.enqueue_one(new)), self.handle))
            met = await admit_async(conn, queries, new)
            if met.entered:
                return self.tell(as_job(new, met.inserted, self.handle))
            found = await db.run_async(conn, queries.get_job(met.id)) if met.readable else None
            return as_existing(new, met, found, self.handle)

    def insert_many(self, new: NewJob, blocks: Sequence[tuple[int, str]]) -> list[int]:
        """Insert jobs that are like `new` but for their arguments, in chunks, all of them or none.

        `blocks`: so many jobs, and their JSON objects separated by commas.
        """
        ids: list[int] = []
        with self._connection() as conn, db.all_or_nothing(conn):
            if new.queue in self._home.max_depth:
                follow(conn, self._home.depths.steps(self._home.queries, new.queue, _count(blocks)))
            for _, chunk in arrays(blocks):
                ids += self._tell_many(new, db.run(conn, self._home.queries.enqueue_alike(new, chunk)))
        return ids

    async def ainsert_many(self, new: NewJob, blocks: Sequence[tuple[int, str]]) -> list[int]:
        """The async twin of `insert_many`."""
        ids: list[int] = []
        async with self._async_connection() as conn, db.all_or_nothing_async(conn):
            if new.queue in self._home.max_depth:
                await follow_async(conn, self._home.depths.steps(self._home.queries, new.queue, _count(blocks)))
            for _, chunk in arrays(blocks):
                ids += self._tell_many(new, await db.run_async(conn, self._home.queries.enqueue_alike(new, chunk)))
        return ids

    def insert_all(self, bulk: Bulk) -> list[int]:
        """Insert jobs with terms, all of them or none."""
        if not len(bulk):
            return []
        with self._connection() as conn:
            follow(conn, self._home.depths.steps(self._home.queries, bulk.like.queue, len(bulk)))
            return self._tell_admitted(bulk.like, admit_all(conn, self._home.queries, bulk.admitted))

    async def ainsert_all(self, bulk: Bulk) -> list[int]:
        """The async twin of `insert_all`."""
        if not len(bulk):
            return []
        async with self._async_connection() as conn:
            await follow_async(conn, self._home.depths.steps(self._home.queries, bulk.like.queue, len(bulk)))
            return self._tell_admitted(bulk.like, await admit_all_async(conn, self._home.queries, bulk.admitted))

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


class Client:
    """The verbs that take a task by name. `app.using(conn, …)` makes one; its options apply to each job."""

    def __init__(self, home: Home, conn: object, options: Options) -> None:
        self._home = home
        self._session = Session(home, conn)
        self._options = options

    def enqueue(self, task: str, args: Mapping[str, Any] | None = None) -> Job:
        """Enqueue a task by name. A task registered here has its arguments validated; another one waits for a worker
        that knows it. Raises InvalidArguments before anything is written."""
        return self._session.insert(self._new(task, args))

    async def aenqueue(self, task: str, args: Mapping[str, Any] | None = None) -> Job:
        """Enqueue a task by name. A task registered here has its arguments validated; another one waits for a worker
        that knows it. Raises InvalidArguments before anything is written."""
        return await self._session.ainsert(self._new(task, args))

    def get(self, job_id: int) -> Job:
        """Return a job with its attempts and their errors. Raises UnknownJob."""
        return _found(job_id, self._session.run(self._home.queries.get_job(job_id)), self._session.handle)

    async def aget(self, job_id: int) -> Job:
        """Return a job with its attempts and their errors. Raises UnknownJob."""
        return _found(job_id, await self._session.arun(self._home.queries.get_job(job_id)), self._session.handle)

    def cancel(self, job_id: int, reason: str = "cancelled by request") -> bool:
        """Cancel a job: True if it was waiting and has ended, False if it runs and its worker is asked to stop it.

        Raises UnknownJob for a job that has ended or never was.
        """
        return _cancelled(job_id, self._session.run(self._home.queries.cancel(job_id, reason)))

    async def acancel(self, job_id: int, reason: str = "cancelled by request") -> bool:
        """Cancel a job: True if it was waiting and has ended, False if it runs and its worker is asked to stop it.

        Raises UnknownJob for a job that has ended or never was.
        """
        return _cancelled(job_id, await self._session.arun(self._home.queries.cancel(job_id, reason)))

    def _new(self, task: str, args: Mapping[str, Any] | None) -> NewJob:
        check_name("task", task)
        spec = self._home.tasks.get(task)
        given = {} if args is None else args
        if spec is not None and self._options.version not in (None, spec.version):
            raise InvalidOption(
                f"version={self._options.version} cannot be used: task {task} is registered here, at version "
                f"{spec.version}, and its arguments are checked as that"
            )
        values: list[dict[str, Any]] = []
        if spec is None:
            text = check_json_object(task, given, self._home.max_args_bytes)
            values.append(dict(given))
        else:
            text = spec.encode((), given, values)
        options = self._options
        if spec is not None and (spec.rules is not None or options.rules is not None):
            options = replace(options, rules=spec.rules_of(options.rules))
        elif options.rules is not None:
            options.rules.check_alone(task, given)
        return new_job(text, options, spec, task, self._home, values[0])


def _found(job_id: int, job: Job | None, handle: WaitHandle) -> Job:
    if job is None:
        raise UnknownJob(f"no job {job_id}: never committed, or dropped by retention")
    return replace(job, handle=handle)


def _cancelled(job_id: int, state: str | None) -> bool:
    if state is None:
        raise UnknownJob(f"no job {job_id} is waiting or running: it has ended, or was never committed")
    return state != JobState.RUNNING
