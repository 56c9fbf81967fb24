"""The verbs of a caller: enqueue and get, in the caller's transaction or on a connection of our own."""

from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Protocol, TypeAlias, TypeVar

from pydantic_core import from_json

from pgqueue import db
from pgqueue.config import check_name, check_queue
from pgqueue.errors import InvalidOption, UnknownJob, UnsupportedConnection
from pgqueue.events import JobEnqueued, Listeners
from pgqueue.job import Job, JobState, NewJob
from pgqueue.outcome import seconds
from pgqueue.queries import Queries, Query
from pgqueue.queries.enqueue import Inserted
from pgqueue.retry import MAX_DELAY
from pgqueue.tasks import Tasks, TaskSpec, check_json_object

T = TypeVar("T")
# Queries one after the other, each asked for by what came back before: alike on sync and async connections.
Steps: TypeAlias = Generator[Query[Any], Any, T]
CHUNK = 5_000
CHUNK_BYTES = 16 * 1024 * 1024


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

    @property
    def database(self) -> db.Database: ...


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one call; None means that the task's own setting, or the app's, stands."""

    queue: str | None = None
    priority: int | None = None
    run_at: datetime | None = None
    delay: float | timedelta | None = None
    max_attempts: int | None = None
    tags: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.queue is not None:
            check_queue(self.queue)
        check_priority(self.priority)
        check_max_attempts(self.max_attempts)
        check_tags(self.tags)
        check_run_at(self.run_at)
        check_delay(self.delay)
        if self.run_at is not None and self.delay is not None:
            raise InvalidOption("run_at and delay exclude each other: give one of them")


def check_run_at(run_at: object) -> None:
    """Refuse a time that is naive, or further away than Postgres and Python both can say."""
    if run_at is None:
        return
    if not isinstance(run_at, datetime) or run_at.utcoffset() is None:
        raise InvalidOption(f"run_at={run_at!r} has no timezone: give an aware datetime, or delay=…")
    if not 1900 <= run_at.year <= 9000:
        raise InvalidOption(f"run_at={run_at!r} cannot be used: give a year from 1900 to 9000")


def check_delay(delay: float | timedelta | None) -> None:
    """Refuse a delay that is no number of seconds, negative, or longer than ten years."""
    try:
        usable = delay is None or 0 <= seconds(delay) <= MAX_DELAY
    except InvalidOption:
        usable = False
    if not usable:
        raise InvalidOption(f"delay={delay!r:.100} cannot be used: give 0 to {MAX_DELAY:.0f} seconds, or a timedelta")


def check_priority(priority: object) -> None:
    """Refuse a priority that is no whole number from -100 to 100."""
    if priority is not None and (type(priority) is not int or not -100 <= priority <= 100):
        raise InvalidOption(f"priority={priority!r} cannot be used: give -100 to 100 (higher runs sooner)")


def check_max_attempts(max_attempts: object) -> None:
    """Refuse a number of attempts that is no whole number from 1 on."""
    if max_attempts is not None and (type(max_attempts) is not int or not 1 <= max_attempts <= 1_000_000):
        raise InvalidOption(f"max_attempts={max_attempts!r} cannot be used: give 1 (no retries) to 1000000")


def check_count(option: str, count: object) -> int:
    """Return a whole number from 1 on; refuse anything else."""
    if type(count) is not int or not 1 <= count <= 1_000_000:
        raise InvalidOption(f"{option}={count!r} cannot be used: give 1 to 1000000")
    return count


def check_retention(kept: object) -> int | None:
    """Return what is to be kept of a job that has succeeded: all (None) or nothing (0)."""
    if kept is not None and (type(kept) is not int or kept != 0):
        raise InvalidOption(f"retention={kept!r} cannot be used: give 0 (keep nothing of what succeeds) or None")
    return kept


def check_tags(tags: Sequence[str] | None) -> None:
    """Refuse tags that are not short texts."""
    if tags is None:
        return
    if not isinstance(tags, (list, tuple)) or len(tags) > 100:
        raise InvalidOption(f"tags={tags!r} cannot be used: give a list of at most 100 texts")
    for tag in tags:
        if not isinstance(tag, str) or not 1 <= len(tag) <= 200 or not tag.isprintable():
            raise InvalidOption(f"tag {tag!r} cannot be used: give 1 to 200 printable characters")


def new_job(args: str, options: Options, spec: TaskSpec | None, name: str, home: Home) -> NewJob:
    """Make the job of one call: options first, then the task's settings, then the app's."""
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
    )


def as_job(new: NewJob, row: Inserted) -> Job:
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
    )


class Session:
    """Runs queries where the caller wants them: on `conn`, in its transaction, or on a connection of our own."""

    def __init__(self, home: Home, conn: object = Own.CONNECTION) -> None:
        if conn is None:
            raise UnsupportedConnection(
                "using(None): that is no connection. Leave it out for one of pgqueue's own, which commits at once"
            )
        self._home = home
        self._conn = conn

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
            found: Any = None
            while True:
                try:
                    query = steps.send(found)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]  # what the generator returns
                found = db.run(conn, query)

    async def aperform(self, steps: Steps[T]) -> T:
        """Run queries one after the other in one transaction; what `steps` raises undoes those before it."""
        async with self._async_connection() as conn, db.all_or_nothing_async(conn):
            found: Any = None
            while True:
                try:
                    query = steps.send(found)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]  # what the generator returns
                found = await db.run_async(conn, query)

    def insert(self, new: NewJob) -> Job:
        """Insert a job."""
        return self.tell(as_job(new, self.run(self._home.queries.enqueue_one(new))))

    async def ainsert(self, new: NewJob) -> Job:
        """Insert a job."""
        return self.tell(as_job(new, await self.arun(self._home.queries.enqueue_one(new))))

    def insert_many(self, new: NewJob, blocks: Sequence[tuple[int, str]]) -> list[int]:
        """Insert jobs that are like `new` but for their arguments, in chunks, all of them or none.

        `blocks`: so many jobs, and their JSON objects separated by commas.
        """
        ids: list[int] = []
        with self._connection() as conn, db.all_or_nothing(conn):
            for chunk in _chunks(blocks):
                ids += self._tell_many(new, db.run(conn, self._home.queries.enqueue_alike(new, chunk)))
        return ids

    async def ainsert_many(self, new: NewJob, blocks: Sequence[tuple[int, str]]) -> list[int]:
        """The async twin of `insert_many`."""
        ids: list[int] = []
        async with self._async_connection() as conn, db.all_or_nothing_async(conn):
            for chunk in _chunks(blocks):
                ids += self._tell_many(new, await db.run_async(conn, self._home.queries.enqueue_alike(new, chunk)))
        return ids

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


def _chunks(blocks: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Yield JSON arrays of what one statement should carry."""
    chunk: list[str] = []
    jobs = size = 0
    for count, text in blocks:
        if chunk and (jobs + count > CHUNK or size + len(text) > CHUNK_BYTES):
            yield f"[{','.join(chunk)}]"
            chunk, jobs, size = [], 0, 0
        chunk.append(text)
        jobs, size = jobs + count, size + len(text)
    if chunk:
        yield f"[{','.join(chunk)}]"


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
        return _found(job_id, self._session.run(self._home.queries.get_job(job_id)))

    async def aget(self, job_id: int) -> Job:
        """Return a job with its attempts and their errors. Raises UnknownJob."""
        return _found(job_id, await self._session.arun(self._home.queries.get_job(job_id)))

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
        text = spec.encode((), given) if spec else check_json_object(task, given)
        return new_job(text, self._options, spec, task, self._home)


def _found(job_id: int, job: Job | None) -> Job:
    if job is None:
        raise UnknownJob(f"no job {job_id}: never committed, or dropped by retention")
    return job


def _cancelled(job_id: int, state: str | None) -> bool:
    if state is None:
        raise UnknownJob(f"no job {job_id} is waiting or running: it has ended, or was never committed")
    return state != JobState.RUNNING
