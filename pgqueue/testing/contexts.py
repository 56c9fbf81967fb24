"""A context without a worker, to call a task directly in a unit test."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg

from pgqueue import db
from pgqueue.client.task import Task
from pgqueue.errors import ConfigError
from pgqueue.jobs.job import ClaimedJob
from pgqueue.tasks.context import Completer, Context, Signals


class Unattended(Signals):
    """Stands for the worker: keeps what the task says, and lends the connection that the test gave."""

    def __init__(self, conn: object, remaining: float | None, cancelled: bool) -> None:
        super().__init__(cancelled=cancelled, host=self)
        self.deadline = None if remaining is None else self.now() + remaining
        self.said: list[dict[str, Any]] = []
        self.result: Any = None
        self._conn = conn

    def completer(self, job: ClaimedJob, signals: Signals) -> Completer:
        """Stand for what completes the job."""
        if self._conn is None:
            raise ConfigError("ctx.transaction() in a unit test: give the connection, context(conn=…)")
        return self

    def note_progress(self, job: ClaimedJob, text: str) -> None:
        """Keep what `ctx.progress()` was told."""
        self.said.append(json.loads(text))

    @contextmanager
    def transaction(self, result: Any) -> Iterator[db.Connection]:
        """Lend the connection in a transaction, or in a savepoint of the one it is in."""
        conn = db.borrow(self._conn)
        with conn.transaction():
            yield conn
        self.completed, self.result = True, result

    @asynccontextmanager
    async def atransaction(self, result: Any) -> AsyncIterator[db.AsyncConnection]:
        """Lend the async connection likewise."""
        conn = await db.borrow_async(self._conn)
        if not isinstance(conn, psycopg.AsyncConnection):
            raise ConfigError("ctx.atransaction() lends a psycopg connection: give one, context(conn=…)")
        async with conn.transaction():
            yield conn
        self.completed, self.result = True, result


class TaskContext(Context):
    """The context of a job that no worker runs."""

    __slots__ = ("_worker",)

    def __init__(self, job: ClaimedJob, worker: Unattended) -> None:
        super().__init__(job, worker)
        self._worker = worker

    @property
    def said(self) -> list[dict[str, Any]]:
        """What `ctx.progress()` was called with, in order: `done`, `total`, `note`."""
        return self._worker.said

    @property
    def completed(self) -> bool:
        """Whether a block of `ctx.transaction()` has ended well; with which result, `result` says."""
        return self._worker.completed

    @property
    def result(self) -> Any:
        """The result that `ctx.transaction(result)` was given."""
        return self._worker.result

    def cancel(self) -> None:
        """Ask the task to stop: `ctx.cancelled` is true from now on."""
        self._worker.cancelled = True


def context(
    task: "Task[..., Any] | str" = "task",
    *,
    job_id: int = 1,
    attempt: int = 1,
    max_attempts: int | None = None,
    queue: str | None = None,
    priority: int = 0,
    tags: Sequence[str] = (),
    headers: Mapping[str, Any] | None = None,
    run_at: datetime | None = None,
    created_at: datetime | None = None,
    remaining: float | None = None,
    cancelled: bool = False,
    conn: object = None,
) -> TaskContext:
    """Make the context of a job that is in no database, to call a task with: `task(context(attempt=2), 42)`.

    `remaining`: seconds until the soft limit. `headers={"schedule": …, "tick": …}` as a fired schedule has them. `conn`
    is what `ctx.transaction()` lends. The context has `said` (what `ctx.progress()` was told), `completed`, `result`
    and `cancel()` for the test.
    """
    spec = task.spec if isinstance(task, Task) else None
    now = datetime.now(UTC)
    job = ClaimedJob(
        id=job_id,
        task=spec.name if spec else str(task),
        queue=queue or (spec.queue if spec else "default"),
        priority=priority,
        args="{}",
        tags=list(tags) or (list(spec.tags) if spec else []),
        headers=json.dumps(headers) if headers else None,
        run_at=run_at or now,
        created_at=created_at or now,
        attempt=attempt,
        max_attempts=max_attempts or (spec.max_attempts if spec else 20),
        lease=attempt,
        worker_id=UUID(int=0),
    )
    return TaskContext(job, Unattended(conn, remaining, cancelled))
