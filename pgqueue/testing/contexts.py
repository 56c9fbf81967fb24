"""Contexts without a worker, for unit tests that call a task directly."""

import json
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

import psycopg

from pgqueue import db
from pgqueue.client.task import Task
from pgqueue.errors import ConfigError
from pgqueue.jobs.job import ClaimedJob
from pgqueue.tasks.context import Completer, Context, Signals
from pgqueue.tasks.step_calls import StepHost
from pgqueue.testing.memory import StepsInMemory


class WorkerStandIn(Signals):
    """Stands for the worker: keeps the progress of the task, and gives it the connection of the test."""

    def __init__(self, conn: object, remaining: float | None, cancelled: bool, sent: Mapping[str, Any] = {}) -> None:
        super().__init__(cancelled=cancelled, host=self)
        self.deadline = None if remaining is None else self.now() + remaining
        self.reported: list[dict[str, Any]] = []
        self.result: Any = None
        self.tasks = None  # what the task enqueues, no job of a database enqueues
        self.added: list[Any] = []
        self._conn = conn
        self._sent = sent

    def completer(self, job: ClaimedJob, signals: Signals) -> Completer:
        """Return the object behind `ctx.transaction()`: this one."""
        return self

    def note_progress(self, job: ClaimedJob, text: str) -> None:
        """Keep a call of `ctx.progress()`."""
        self.reported.append(json.loads(text))

    def step_host(self, job: ClaimedJob, signals: Signals) -> StepHost:
        """Return what keeps the steps of the task: in memory."""
        return StepsInMemory(self._conn, self._sent, self.added)

    def transaction(self, result: Any) -> AbstractContextManager[db.Connection]:
        """Give the connection in a transaction, or in a savepoint if it is in one."""
        return self._lent(self._given(), result)

    def atransaction(self, result: Any) -> AbstractAsyncContextManager[db.AsyncConnection]:
        """The async twin of `transaction`."""
        return self._lent_async(self._given(), result)

    @contextmanager
    def _lent(self, given: object, result: Any) -> Iterator[db.Connection]:
        conn = db.borrow_psycopg(given)
        with conn.transaction():
            yield conn
        self.completed, self.result = True, result

    @asynccontextmanager
    async def _lent_async(self, given: object, result: Any) -> AsyncIterator[db.AsyncConnection]:
        conn = await db.borrow_async(given)
        if not isinstance(conn, psycopg.AsyncConnection):
            raise ConfigError("ctx.atransaction() gives the task a psycopg connection: give one, context(conn=…)")
        async with conn.transaction():
            yield conn
        self.completed, self.result = True, result

    def _given(self) -> object:
        if self._conn is None:
            raise ConfigError("ctx.transaction() in a unit test: give the connection, context(conn=…)")
        return self._conn

    def transaction_on(
        self, given: object, alias: str | None, result: Any
    ) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]:
        """Commit on the connection that the task gives, in the transaction around it if there is one."""
        given = given if alias is None else db.django_connection(alias)
        return self._on_async(given, result) if db.is_async(given) else self._on(given, result)

    @contextmanager
    def _on(self, given: object, result: Any) -> Iterator[object]:
        with db.transaction_on(given, lambda: None, outer=True) as current:
            yield given
            current()
        self.completed, self.result = True, result

    @asynccontextmanager
    async def _on_async(self, given: object, result: Any) -> AsyncIterator[object]:
        async with db.transaction_on_async(given, lambda: None, outer=True) as current:
            yield given
            await current()
        self.completed, self.result = True, result


class TaskContext(Context):
    """The context of a job that is in no database, with what the task did to it."""

    __slots__ = ("_worker",)

    def __init__(self, job: ClaimedJob, worker: WorkerStandIn) -> None:
        super().__init__(job, worker)
        self._worker = worker

    @property
    def reported(self) -> list[dict[str, Any]]:
        """The calls of `ctx.progress()` in order, each with `done`, `total`, `note`."""
        return self._worker.reported

    @property
    def added(self) -> list[Any]:
        """What the task has added by `ctx.add`, in order: signatures, canvases and workflows."""
        return self._worker.added

    @property
    def said(self) -> list[dict[str, Any]]:
        """The former name of `reported`."""
        warnings.warn("TaskContext.said is now called reported", DeprecationWarning, stacklevel=2)
        return self._worker.reported

    @property
    def completed(self) -> bool:
        """Whether a block of `ctx.transaction()` has ended without an error."""
        return self._worker.completed

    @property
    def result(self) -> Any:
        """The argument of `ctx.transaction(result=…)`, once its block has ended without an error."""
        return self._worker.result

    def cancel(self) -> None:
        """Ask the task to stop: `ctx.cancelled` is true from now on."""
        self._worker.cancelled = True


class JobFields(TypedDict, total=False):
    """The fields of the job behind a context."""

    job_id: int
    attempt: int
    max_attempts: int | None
    queue: str | None
    priority: int
    tags: Sequence[str]
    headers: Mapping[str, Any] | None
    run_at: datetime | None
    created_at: datetime | None


def context(
    task: "Task[..., Any] | str" = "task",
    *,
    remaining: float | None = None,
    cancelled: bool = False,
    conn: object = None,
    sent: Mapping[str, Any] = {},
    **fields: Unpack[JobFields],
) -> TaskContext:
    """Make the context of a job that is in no database, to call a task with: `task(context(attempt=2), 42)`.

    `remaining`: seconds until the soft limit. `conn`: the connection that `ctx.transaction()` gives the task. `sent`:
    what waits bring, by the name of the signal or event; others time out at once, and no sleep takes time. The other
    options are the job's: `job_id`, `attempt`, `max_attempts`, `queue`, `priority`, `tags`, `run_at`, `created_at`,
    `headers` (`{"schedule": …, "tick": …}` as a fired schedule has them). For the test, the context has `reported`
    (the calls of `ctx.progress()`), `completed`, `result` and `cancel()`.
    """
    return TaskContext(_job(task, **fields), WorkerStandIn(conn, remaining, cancelled, sent))


def _job(task: "Task[..., Any] | str", **fields: Unpack[JobFields]) -> ClaimedJob:
    spec = task.spec if isinstance(task, Task) else None
    now, headers, attempt = datetime.now(UTC), fields.get("headers"), fields.get("attempt", 1)
    return ClaimedJob(
        id=fields.get("job_id", 1),
        task=spec.name if spec else str(task),
        queue=fields.get("queue") or (spec.queue if spec else "default"),
        priority=fields.get("priority", 0),
        args="{}",
        tags=list(fields.get("tags", ())) or (list(spec.tags) if spec else []),
        headers=json.dumps(headers) if headers else None,
        run_at=fields.get("run_at") or now,
        created_at=fields.get("created_at") or now,
        attempt=attempt,
        max_attempts=fields.get("max_attempts") or (spec.max_attempts if spec else 20),
        lease=attempt,
        waited=0.0,
        lane=None,
        ties=None,
        worker_id=UUID(int=0),
    )
