"""Jobs as values: to insert, claimed by a worker, and as a reader gets them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from pgqueue.error_info import ErrorInfo
from pgqueue.errors import ConfigError, ResultMissing
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.keys import Conditions
from pgqueue.jobs.other_names import OF_JOB, tells_of

MAX_CRASHES = 5  # of a task, where neither it nor its app says otherwise


class JobState(StrEnum):
    """The state of a job. The last three are terminal; a failed job is a dead letter."""

    BLOCKED = "blocked"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether no worker will touch the job again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(slots=True)
class NewJob:
    """A job to insert. `args` is JSON text; the database's clock turns `delay` seconds into a time. Without `history`
    nothing is kept of it when it succeeds. `conditions`, if any, decide whether it is inserted. `version` is the
    version of the task for which the arguments are meant, and `max_crashes` how often the job may crash a worker.
    `headers` are those of its caller, JSON text. `dead_letter_task`: what the job that goes with a dead letter gets.
    `flow`: the turn for which it waits; None for a job that no rule concerns. `by`: the id of the job whose task
    enqueues it; None outside of a running task.
    """

    task: str
    args: str
    queue: str
    priority: int
    max_attempts: int
    run_at: datetime | None = None
    delay: float | None = None
    tags: tuple[str, ...] = ()
    history: bool = True
    conditions: Conditions | None = None
    version: int = 1
    max_crashes: int = MAX_CRASHES
    headers: str | None = None
    dead_letter_task: Mapping[str, Any] | None = None
    flow: Flow | None = None
    by: int | None = None

    def for_call(self, args: str, conditions: Conditions | None) -> "NewJob":
        """Return a job with the same options for another call."""
        return NewJob(
            self.task, args, self.queue, self.priority, self.max_attempts, self.run_at, self.delay, self.tags,
            self.history, conditions, self.version, self.max_crashes, self.headers, self.dead_letter_task,
            self.flow, self.by,
        )  # fmt: skip


@dataclass(slots=True)
class ClaimedJob:
    """A job that a worker has claimed. `lease` fences whatever the worker writes about it.

    `waited`: the seconds from when it was due until it was claimed, by the database's clock. `due`, `began` and `ended`
    are times of the worker's monotonic clock; 0 where the job was given back before it began. `lane`: that of a metered
    job. `ties`: what its end must tell, as bits; None for a job for whose end nothing waits.
    `inputs`: results of other jobs that are arguments of this one, as JSON, once they are read; `pages`: where it reads
    those for which it asks page by page.
    """

    id: int
    task: str
    queue: str
    priority: int
    args: str
    tags: list[str] | None
    headers: str | None
    run_at: datetime
    created_at: datetime
    attempt: int
    max_attempts: int
    lease: int
    waited: float
    lane: int | None
    ties: int | None
    worker_id: UUID
    due: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    inputs: str | None = None
    pages: Any = None

    @property
    def event_fields(self) -> tuple[int, str, str, int, int, UUID]:
        """The fields of an AttemptEvent, in order: job, task, queue, attempt, lease, worker."""
        return self.id, self.task, self.queue, self.attempt, self.lease, self.worker_id

    @property
    def log_facts(self) -> dict[str, object]:
        """What a line of the log says about the job: `extra=` of that line."""
        return {"job_id": self.id, "task": self.task, "queue": self.queue, "attempt": self.attempt}

    @property
    def is_last_attempt(self) -> bool:
        """Whether a failure of this attempt makes the job a dead letter."""
        return self.attempt >= self.max_attempts


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job. `ended_at` and `state` are None while it runs; `reason` says how it ended."""

    number: int
    started_at: datetime
    ended_at: datetime | None
    state: JobState | None
    reason: str | None
    error: ErrorInfo | None
    worker_id: UUID | None


@dataclass(frozen=True, slots=True)
class Note:
    """What somebody has noted on a dead letter: when, by the database's clock, who, and the text."""

    at: datetime
    by: str
    text: str


class Handle(Protocol):
    """Waits for the end of a job, in the app from which the job came."""

    def wait(self, job_id: int, timeout: float | timedelta | None) -> Any: ...
    async def await_result(self, job_id: int, timeout: float | timedelta | None) -> Any: ...


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the database has it at the moment of reading.

    `phase` is the state in words for people: a pending job shows as `scheduled` until its first run time, as
    `sleeping` or `waiting` while its task lets it sleep or wait for a signal, an event or a call, and as `retrying`
    after an attempt that failed. `progress` is the last `ctx.progress()` of a running job: `done`, `total`, `note`;
    `cancel_requested_at` is when somebody asked to cancel a running job. `headers` are what its task reads as
    `ctx.headers`: those given to `using(headers=…)`, what hooks added, and the schedule, tick, expiry and idempotency
    key of a job that has them; do not change them. `notes` are those that people put on it when it was a dead letter,
    the newest last. `flow` has the buckets that a metered job takes while it runs, and its order; None for others.
    `workflow_id` is the id of the workflow that it is part of, if it is. `inputs` names the arguments that are results
    of other jobs of its workflow: `args` has not got them. `enqueued_by` is the id of the job whose task enqueued this
    one while it ran; None for a job that was enqueued elsewhere, or by a release that did not write it down.
    `app.get(id)` fills `attempts`. `existing`: the call that returned this job inserted none, since its key was taken;
    if the job with the key was pruned by then, `phase` is `pruned`, and only what the call knew is here. `handle`
    serves `wait`.
    """

    id: int
    task: str
    queue: str
    priority: int
    state: JobState
    phase: str
    args: dict[str, Any]
    tags: tuple[str, ...]
    run_at: datetime
    created_at: datetime
    attempt: int
    max_attempts: int
    crash_count: int = 0
    waits_for: str | None = None
    claimed_at: datetime | None = None
    finished_at: datetime | None = None
    worker_id: UUID | None = None
    reason: str | None = None
    result: Any = None
    error: ErrorInfo | None = None
    progress: dict[str, Any] | None = None
    cancel_requested_at: datetime | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    flow: Flow | None = None
    workflow_id: int | None = None
    inputs: tuple[str, ...] = ()
    enqueued_by: int | None = None
    attempts: tuple[Attempt, ...] = ()
    existing: bool = False
    handle: Handle | None = field(default=None, repr=False, compare=False)

    if not TYPE_CHECKING:
        __getattr__ = tells_of(OF_JOB, "a job")

    def wait(self, timeout: float | timedelta | None = None) -> Any:
        """Wait until the job has ended, at most `timeout` seconds; return what its task returned.

        Raises JobFailed, JobWasCancelled, WaitTimeout or ResultMissing. In an event loop use `await_result`. A job that
        was enqueued in a transaction cannot end before that commits: do not wait inside it.
        """
        return self._handle().wait(self.id, timeout)

    async def await_result(self, timeout: float | timedelta | None = None) -> Any:
        """The async twin of `wait`."""
        return await self._handle().await_result(self.id, timeout)

    @property
    def waits_for_turn(self) -> bool:
        """Whether it waits, and for nothing but a time and its turn."""
        return self.state == JobState.BLOCKED and self.waits_for == "turn"

    def _handle(self) -> Handle:
        if self.phase == "pruned":
            raise ResultMissing(f"job {self.id} {self.task} has ended, and nothing is kept of it")
        if self.handle is None:
            raise ConfigError(f"job {self.id} does not know its app: use app.wait({self.id})")
        return self.handle

    @property
    def errors(self) -> list[ErrorInfo]:
        """The errors of its attempts, oldest first."""
        return [a.error for a in self.attempts if a.error is not None]
