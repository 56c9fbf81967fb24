"""The context of a running task: its job, its deadline, its progress, and a transaction with the job's completion."""

import json
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload
from uuid import UUID

import psycopg

from pgqueue.error_info import storable_text
from pgqueue.errors import ConfigError, InvalidOption
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.other_names import OF_CONTEXT, tells_of
from pgqueue.jobs.verdicts import Cancel, SoftTimeout, TimedOut
from pgqueue.tasks.added import Addable, AddedNode, AfterAdded
from pgqueue.tasks.durable import DurableContext
from pgqueue.tasks.journal import Journal
from pgqueue.tasks.stand_in import StandIn, StandsIn, standing_in
from pgqueue.tasks.step_calls import StepCalls, StepHost
from pgqueue.tasks.versions import OWN

R = TypeVar("R")
MAX_NOTE = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Completer(Protocol):
    """Completes a job in a transaction in which the task writes, too."""

    def transaction(self, result: Any) -> AbstractContextManager["psycopg.Connection[Any]"]: ...
    def atransaction(self, result: Any) -> AbstractAsyncContextManager["psycopg.AsyncConnection[Any]"]: ...
    def transaction_on(
        self, given: object, alias: str | None, result: Any
    ) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]: ...


class Commits(Protocol):
    """A session or connection whose transaction the task commits with the job: of SQLAlchemy, or psycopg."""

    def commit(self) -> None: ...
    def rollback(self) -> None: ...


class CommitsAsync(Protocol):
    """The async twin of `Commits`."""

    def commit(self) -> Coroutine[Any, Any, None]: ...
    def rollback(self) -> Coroutine[Any, Any, None]: ...


S = TypeVar("S", bound=Commits)
A = TypeVar("A", bound=CommitsAsync)


class Host(Protocol):
    """The part of a worker that a running task uses. `tasks`: the tasks of its app, by which that is known."""

    @property
    def tasks(self) -> object: ...
    def completer(self, job: ClaimedJob, signals: "Signals") -> Completer: ...
    def note_progress(self, job: ClaimedJob, text: str) -> None: ...
    def step_host(self, job: ClaimedJob, signals: "Signals") -> StepHost: ...


@dataclass(slots=True, eq=False)
class Signals:
    """State that a worker and a running task share. `deadline` is by the machine's monotonic clock; it is that of a
    `soft_timeout` where `soft`. `host` is None
    without a worker, and after the job's end. `completed`: the task has committed the job's success itself. `awaited`:
    a `def` task has returned a coroutine, and the event loop runs that. `step_calls`: those of the attempt, once
    the task has used one."""

    deadline: float | None = None
    soft: bool = False
    cancelled: bool = False
    completed: bool = False
    awaited: bool = False
    host: Host | None = None
    step_calls: StepCalls | None = None
    now: Callable[[], float] = time.monotonic


class Context(DurableContext):
    """The job a task runs for. A task gets one by declaring a first parameter annotated `pgqueue.Context`."""

    __slots__ = ("_job", "_signals")

    if not TYPE_CHECKING:
        __getattr__ = tells_of(OF_CONTEXT, "the context")

    def __init__(self, job: ClaimedJob, signals: Signals | None = None) -> None:
        self._job = job
        self._signals = signals or Signals()

    def __repr__(self) -> str:
        return f"<Context of job {self.job_id} {self.task}, attempt {self.attempt} of {self.max_attempts}>"

    @property
    def job_id(self) -> int:
        """The id of the job: the same in every attempt."""
        return self._job.id

    @property
    def task(self) -> str:
        """The name of the task."""
        return self._job.task

    @property
    def queue(self) -> str:
        """The queue in which it was enqueued."""
        return self._job.queue

    @property
    def priority(self) -> int:
        """The priority with which it was claimed; higher runs sooner."""
        return self._job.priority

    @property
    def attempt(self) -> int:
        """Which run of the job this is, from 1. A recorded step makes it 1 again: failures since then count."""
        return self._job.attempt

    @property
    def max_attempts(self) -> int:
        """The number of runs that it may have."""
        return self._job.max_attempts

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags with which it was enqueued."""
        return tuple(self._job.tags or ())

    @property
    def headers(self) -> dict[str, Any]:
        """The data that the job carries beside its arguments; `schedule` and `tick` if a schedule fired it."""
        headers = json.loads(self._job.headers) if self._job.headers else {}
        return {name: value for name, value in headers.items() if name not in OWN}

    def header(self, name: str) -> Any:
        """Return one of the headers, or None: cheaper than `headers` for a job that does not have it."""
        text = self._job.headers
        return None if text is None or name not in text or name in OWN else json.loads(text).get(name)

    @property
    def tick(self) -> datetime | None:
        """The tick for which its schedule fired it, in UTC, however late it runs; None for a job of no schedule."""
        tick = self.header("tick")
        return None if tick is None else datetime.fromisoformat(tick)

    @property
    def idempotency_key(self) -> str:
        """The job's idempotency key, or else one made for it: the same in every attempt. Pass it to other services, so
        that they recognise a repeated request."""
        given = self.header("idempotency_key")
        born = (self._job.created_at - _EPOCH) // timedelta(microseconds=1)
        return str(given) if given is not None else f"pgqueue-{self._job.id}-{born}"

    @property
    def attempt_key(self) -> str:
        """A key of this attempt alone: another one of the job, also after a snooze, a recorded step or a redrive, has
        another. For services that are to answer a repeat anew, and for finding one attempt in their logs."""
        return f"{self.idempotency_key}.{self._job.lease}"

    @property
    def run_at(self) -> datetime:
        """When this attempt was due."""
        return self._job.run_at

    @property
    def waited(self) -> float:
        """Seconds from when this attempt was due until it began, or 0 for a job that no worker has claimed."""
        job = self._job
        return job.began - job.due if job.began else job.waited

    @property
    def worker_id(self) -> UUID:
        """The id under which its worker claimed it."""
        return self._job.worker_id

    @property
    def created_at(self) -> datetime:
        """When the job was enqueued."""
        return self._job.created_at

    @property
    def is_last_attempt(self) -> bool:
        """Whether a failure now makes the job a dead letter."""
        return self.attempt >= self.max_attempts

    @property
    def remaining(self) -> float | None:
        """Seconds until the soft limit (`soft_timeout`, else `timeout`), negative after it; None without a limit."""
        deadline = self._signals.deadline
        return None if deadline is None else deadline - self._signals.now()

    @property
    def deadline(self) -> datetime | None:
        """The time of the soft limit, by the clock of this machine; None without a limit."""
        remaining = self.remaining
        return None if remaining is None else datetime.now(UTC) + timedelta(seconds=remaining)

    @property
    def cancelled(self) -> bool:
        """Whether a cancellation of this job was requested. A task in a thread must check this itself."""
        return self._signals.cancelled

    def check(self) -> None:
        """Raise Cancel if the job was cancelled, SoftTimeout if its `soft_timeout` has passed (TimedOut where it has a
        `timeout` alone); else do nothing.

        For long work in a thread, which cannot be stopped from outside: call it between steps.
        """
        if self.cancelled:
            raise Cancel("cancelled by request")
        remaining = self.remaining
        if remaining is not None and remaining <= 0:
            kind = SoftTimeout if self._signals.soft else TimedOut
            raise kind(f"the soft limit passed {-remaining:.1f} s ago")

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Report how far the job is: `app.get(id).progress` shows it while the job runs.

        It costs little and may be called often: the newest report is written twice a second at most, and only while the
        worker has the lease. Raises InvalidOption for NaN and infinity, which JSON does not have.
        """
        if not all(math.isfinite(number) for number in (done, total or 0)):
            raise InvalidOption(f"progress {done!r} of {total!r} cannot be stored: give finite numbers")
        if self._signals.host is not None:
            report = {"done": done, "total": total, "note": note and storable_text(note[:MAX_NOTE])}
            text = json.dumps({name: value for name, value in report.items() if value is not None})
            self._signals.host.note_progress(self._job, text)

    @overload
    def transaction(self, /, *, result: Any = None) -> AbstractContextManager["psycopg.Connection[Any]"]: ...
    @overload
    def transaction(self, conn: S, /, *, result: Any = None) -> AbstractContextManager[S]: ...
    @overload
    def transaction(self, conn: A, /, *, result: Any = None) -> AbstractAsyncContextManager[A]: ...
    @overload
    def transaction(self, /, *, using: str, result: Any = None) -> AbstractContextManager[Any]: ...
    def transaction(self, conn: object = None, /, *, using: str | None = None, result: Any = None) -> Any:
        """Commit the writes of the task and the completion of the job together, or neither.

        `with ctx.transaction() as conn:` lends a psycopg connection in a transaction. At the end of the block the job
        is resolved as succeeded, with `result` as it is then, in that transaction, and it commits. What the task
        returns after the block is not stored, and the log says so. If the lease was lost, LeaseLost is raised and the
        transaction rolled back. So each job has its effect in this database exactly once, whatever
        crashes when. Once it has committed, the job has ended: nothing that the task does or raises afterwards changes
        it.

        Verbs of the same app that are called in the block, such as `task.enqueue()`, join the transaction, unless they
        name a connection.

        The connection is the task's for this block only: what it sets there is reset, and SQL that ends the transaction
        is refused.

        With an ORM the block takes the task's own connection, to the same database: `with ctx.transaction(session):`
        (SQLAlchemy), `async with ctx.transaction(async_session):`, `with ctx.transaction(using="default"):` (an alias
        of Django's). It goes on with the transaction that the session has begun, if it has one, and commits it. Raises
        UnsupportedConnection before anything is written for a driver other than psycopg 3 and, async, asyncpg; in
        autocommit; inside `transaction.atomic()`; and for another database.
        """
        if conn is None and using is None:
            return self._completer().transaction(_stored(result))
        return self._completer().transaction_on(conn, using, _stored(result))

    def atransaction(self, *, result: Any = None) -> AbstractAsyncContextManager["psycopg.AsyncConnection[Any]"]:
        """The async twin of `transaction`, for a lent connection: `async with ctx.atransaction() as conn:`."""
        return self._completer().atransaction(_stored(result))

    def replace(self, part: StandsIn[R], /) -> R:
        """Let a canvas or workflow run in the place of this job: `return ctx.replace(chord([…], join.s()))`.

        The task returns what this returns. The job then waits, without a slot, until the canvas has ended, and ends as
        it did: with its result, as a dead letter if a job of it has failed for good, or as cancelled. So what waits for
        this job waits for the canvas, and gets its result; the task is not called again. The canvas and the fact that
        the job waits for it commit together, under the lease of the job: another attempt, after a crash, finds neither
        of them, or does not run.

        A job of no workflow gets one of its own. Raises InvalidArguments, InvalidOption and InvalidWorkflow.
        """
        return cast(R, standing_in(part))

    def add(
        self, part: Addable[R], /, *, after: AfterAdded | Iterable[AfterAdded] = (), name: str | None = None
    ) -> AddedNode[R]:
        """Add a signature, a canvas or a workflow to the workflow of this job, now; return it as a node.

        It becomes a member of the group of this job, so the workflow does not end before it has ended. It waits for
        what stands in `after`, nodes that `add` has returned and jobs of the workflow, by their ids, and for the nodes
        among its arguments; and not for this job. It commits under the lease of the job, with a record under its name,
        as a step has: another attempt gets the same node and adds nothing. Without a `name` these are numbered in the
        order of calls.

        A job of no workflow gets one of its own. Raises WorkflowEnded in a callback of a workflow that has ended,
        LeaseLost, InvalidArguments, InvalidOption, InvalidWorkflow and StepMismatch.
        """
        steps = self._steps()
        return AddedNode(steps.step(_step_of(name), steps.adding(part, after, name)))

    async def aadd(
        self, part: Addable[R], /, *, after: AfterAdded | Iterable[AfterAdded] = (), name: str | None = None
    ) -> AddedNode[R]:
        """The async twin of `add`."""
        steps = self._steps()
        return AddedNode(await steps.astep(_step_of(name), steps.aadding(part, after, name)))

    def _steps(self) -> StepCalls:
        calls, host = self._signals.step_calls, self._signals.host
        if host is None:
            raise ConfigError("steps, sleeps and waits work only in a job that a worker runs, while it runs")
        if calls is None:
            steps = host.step_host(self._job, self._signals)
            calls = self._signals.step_calls = StepCalls(Journal(self._job, steps.version), steps)
        return calls

    def _completer(self) -> Completer:
        if self._signals.host is None:
            raise ConfigError("ctx.transaction() works only in a job that a worker runs")
        return self._signals.host.completer(self._job, self._signals)


def _stored(result: Any) -> Any:
    """Refuse what is to run in the place of a job that ends with its transaction."""
    if isinstance(result, StandIn):
        raise InvalidOption(
            "result=ctx.replace(…) cannot be used: the job ends with ctx.transaction(). Return ctx.replace(…) from a "
            "task that does not use it"
        )
    return result


def _step_of(name: str | None) -> str:
    return "add" if name is None else f"add {name}"


# The context of the job whose task runs here.
current_context: ContextVar[Context | None] = ContextVar("pgqueue_job", default=None)


def running_job_of(tasks: object) -> int | None:
    """Return the id of the job whose task runs here, if it is one of the app that has these tasks; else None. An id of
    another app's may be that of another job in this one's database. After its end a job enqueues nothing."""
    context = current_context.get()
    if context is None:
        return None
    host = context._signals.host
    return context.job_id if host is not None and host.tasks is tasks else None
