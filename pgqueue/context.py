"""What a running task may know about its own job, and do with it."""

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg

from pgqueue.errors import ConfigError, InvalidOption
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Cancel, TimedOut, storable

MAX_NOTE = 500


class Completer(Protocol):
    """Completes a job in a transaction that the task shares."""

    def transaction(self, result: Any) -> AbstractContextManager["psycopg.Connection[Any]"]: ...
    def atransaction(self, result: Any) -> AbstractAsyncContextManager["psycopg.AsyncConnection[Any]"]: ...


@dataclass(slots=True)
class Signals:
    """What the worker tells a running task; and until when it may run, by the monotonic clock of its machine."""

    deadline: float | None = None
    cancelled: bool = False
    report: Callable[[str], None] | None = None
    completer: Completer | None = None
    now: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Context:
    """The job a task runs for. A task gets one by declaring a first parameter annotated `pgqueue.Context`.

    `attempt` counts from 1. `headers` is what travels with the job beside its arguments; a job that a schedule
    fired has `schedule` and `tick` there.
    """

    job_id: int
    task: str
    queue: str
    attempt: int
    max_attempts: int
    tags: tuple[str, ...]
    headers: dict[str, Any]
    run_at: datetime
    created_at: datetime
    _signals: Signals = field(default_factory=Signals, repr=False, compare=False)

    @classmethod
    def of(cls, job: ClaimedJob, signals: Signals | None = None) -> "Context":
        """Make the context of a claimed job."""
        return cls(
            job.id, job.task, job.queue, job.attempt, job.max_attempts, tuple(job.tags or ()),
            json.loads(job.headers) if job.headers else {}, job.run_at, job.created_at, signals or Signals(),
        )  # fmt: skip

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
        """When the soft limit comes, by the clock of this machine; None without a limit."""
        remaining = self.remaining
        return None if remaining is None else datetime.now(UTC) + timedelta(seconds=remaining)

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked to cancel this job. A task in a thread must look for itself."""
        return self._signals.cancelled

    def check(self) -> None:
        """Raise Cancel if the job was cancelled, TimedOut if its soft limit has passed; else do nothing.

        For long work in a thread, which cannot be stopped from outside: call it between steps.
        """
        if self.cancelled:
            raise Cancel("cancelled by request")
        remaining = self.remaining
        if remaining is not None and remaining <= 0:
            raise TimedOut(f"the soft limit passed {-remaining:.1f} s ago")

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Say how far the job is: `app.get(id).progress` shows it while the job runs.

        Costs little and may be called often: the newest word is written twice a second at most, and only while the
        lease is ours. Raises InvalidOption for a number that JSON does not have.
        """
        if not all(math.isfinite(number) for number in (done, total or 0)):
            raise InvalidOption(f"progress {done!r} of {total!r} cannot be stored: give finite numbers")
        if self._signals.report is not None:
            said = {"done": done, "total": total, "note": note and storable(note[:MAX_NOTE])}
            self._signals.report(json.dumps({name: value for name, value in said.items() if value is not None}))

    def transaction(self, result: Any = None) -> AbstractContextManager["psycopg.Connection[Any]"]:
        """Commit what the task writes and the completion of the job together, or neither.

        `with ctx.transaction() as conn:` lends a psycopg connection in a transaction. At the end of the block the job
        is resolved as succeeded, with `result`, in that transaction, and it commits. If the lease was lost LeaseLost
        is raised and nothing of the transaction remains. With it each job has its effect in this database exactly once,
        whatever dies when. Once it has committed the job is over: what the task does or raises afterwards changes
        nothing.
        """
        return self._completer().transaction(result)

    def atransaction(self, result: Any = None) -> AbstractAsyncContextManager["psycopg.AsyncConnection[Any]"]:
        """The async twin of `transaction`: `async with ctx.atransaction() as conn:`."""
        return self._completer().atransaction(result)

    def _completer(self) -> Completer:
        if self._signals.completer is None:
            raise ConfigError("ctx.transaction() works only in a job that a worker runs")
        return self._signals.completer
