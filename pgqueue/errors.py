"""The errors of pgqueue, one tree:

PgqueueError
├── ConfigError              a setting, a name or a reference that cannot be used
├── DatabaseUnreachable      no connection to Postgres
├── NotAllowed               the database role may not do this
├── NotMigrated              the schema is missing or older than this pgqueue
├── UnsupportedConnection    `using(conn)` got something that is no Postgres connection it can borrow
├── InvalidTask              a function that cannot be a task
├── UnknownTask              no task of that name is registered
├── InvalidArguments         arguments that do not fit the task or cannot be stored as JSON
├── InvalidOption            a queue, priority, delay, tag … out of its bounds
├── InvalidPlan              a cron expression, interval, moment or timezone that cannot be used
├── UnknownQueue             a limit names a queue the worker does not serve
├── UnknownJob               no job has that id
├── UnknownSchedule          no schedule has that name
├── ScheduleExists           a schedule has that name already
├── IdempotencyConflict      an idempotency key was used before, with other arguments
├── DuplicateJob             another job holds the unique key, and the call asked to be told
├── SnapshotConflict         a key was taken by a transaction that this one's snapshot cannot see
├── QueueFull                the queue holds as many jobs as it may
├── LeaseLost                the job was taken from this worker and runs elsewhere
├── JobFailed                a job that was waited for is a dead letter
├── JobWasCancelled          a job that was waited for ended as cancelled
├── ResultMissing            a job that was waited for has succeeded, but its result is not there
├── WaitTimeout              a job that was waited for has not ended in time
├── UnknownKey               what is sealed needs a key, or a codec, that is not here
└── CannotOpen               what is sealed was altered, or moved to where it does not belong
"""

import traceback
from dataclasses import dataclass


class PgqueueError(Exception):
    """Anything pgqueue refuses. The message names the thing and says what to do instead."""

    exit_code = 1


class ConfigError(PgqueueError):
    """A setting, a name or a reference that cannot be used."""

    exit_code = 78


class DatabaseUnreachable(PgqueueError):
    """No connection to Postgres could be made, or it was lost."""

    exit_code = 69


class NotMigrated(PgqueueError):
    """pgqueue's schema is missing in this database, or older than this version needs."""

    exit_code = 78


class NotAllowed(PgqueueError):
    """The role of the connection lacks a privilege. docs/operations.md says which roles need which."""

    exit_code = 78


class UnsupportedConnection(PgqueueError, TypeError):
    """`using(conn)` was given something that is not a Postgres connection pgqueue can borrow."""


class InvalidTask(PgqueueError, TypeError):
    """A function cannot be registered as a task."""


class UnknownTask(PgqueueError, LookupError):
    """No task of that name is registered with this app."""

    exit_code = 2


class MigrationBlocked(PgqueueError):
    """A migration could not get at a table within seconds. Nothing was changed: try again."""


class InvalidArguments(PgqueueError, ValueError):
    """Arguments do not fit the task's signature, or cannot be stored as JSON. Nothing was written."""

    exit_code = 2

    def __init__(self, task: str, problems: list[str]) -> None:
        self.task = task
        self.problems = problems
        super().__init__(f"cannot call {task}: " + "; ".join(problems))


class InvalidOption(PgqueueError, ValueError):
    """An option of a job or task is out of its bounds. Nothing was written."""

    exit_code = 2


class InvalidPlan(PgqueueError, ValueError):
    """A schedule's cron expression, interval or timezone cannot be used."""

    exit_code = 2


class UnknownQueue(PgqueueError, LookupError):
    """A limit names a queue that the worker does not serve."""

    exit_code = 2


class UnknownJob(PgqueueError, LookupError):
    """No job has that id: it never existed, its transaction rolled back, or retention dropped it."""


class UnknownSchedule(PgqueueError, LookupError):
    """No schedule has that name. Nothing was written."""


class ScheduleExists(PgqueueError):
    """A schedule has that name already. Nothing was written."""

    exit_code = 2


class IdempotencyConflict(PgqueueError):
    """An idempotency key was used before, for the same task with other arguments, by job `job_id` (None if that was in
    the same call). The call wrote nothing, and the transaction stays usable."""

    def __init__(self, task: str, key: str, job_id: int | None) -> None:
        self.task, self.key, self.job_id = task, key, job_id
        by = "in the same call" if job_id is None else f"by job {job_id}"
        super().__init__(
            f"idempotency key {key!r:.200} of task {task} was used with other arguments, {by}: use a key for one "
            "request only"
        )


class DuplicateJob(PgqueueError):
    """Job `job_id` (None: another one of the same call) holds the unique key, and the call said on_conflict="raise".
    The call wrote nothing, and the transaction stays usable."""

    def __init__(self, task: str, key: str, job_id: int | None) -> None:
        self.task, self.key, self.job_id = task, key, job_id
        by = "another job of the same call" if job_id is None else f"job {job_id}"
        super().__init__(f"unique key {key!r:.200} of task {task} is held by {by}")


class SnapshotConflict(PgqueueError):
    """Another transaction took the same key after this one's snapshot, which repeatable read keeps to the end: its job
    cannot be seen from here. The call wrote nothing; the transaction stays usable, but only a new one can tell."""

    sqlstate = "40001"  # for those who try again by it


class QueueFull(PgqueueError):
    """The queue holds as many waiting jobs as App(max_depth=…) lets it. The call wrote nothing."""

    def __init__(self, queue: str, depth: int, max_depth: int) -> None:
        self.queue, self.depth, self.max_depth = queue, depth, max_depth
        super().__init__(f"queue {queue} is full: about {depth} jobs wait there, and {max_depth} may (max_depth)")


class LeaseLost(PgqueueError):
    """The job was taken from this worker, which was declared lost, and runs elsewhere: this attempt changes nothing."""


class UnknownKey(PgqueueError, LookupError):
    """Something is sealed with a key that this codec does not have. Others may have it: jobs wait for them."""

    exit_code = 78


class CannotOpen(PgqueueError, ValueError):
    """Something sealed does not open with its key: it was altered, moved to another task, or the key is another one."""


for _stored in (UnknownKey, CannotOpen):
    _stored.__module__ = "pgqueue"  # where users import them from: the name that is stored with an error


class JobFailed(PgqueueError):
    """A job that was waited for is a dead letter. `reason` says how it came to that, `error` what it raised last."""

    def __init__(self, job_id: int, task: str, reason: str | None, error: "ErrorInfo | None") -> None:
        self.job_id = job_id
        self.task = task
        self.reason = reason
        self.error = error
        told = f": {error.type}: {error.message}" if error else ""
        super().__init__(f"job {job_id} {task} failed ({reason or 'failed'}){told}")


class JobWasCancelled(PgqueueError):
    """A job that was waited for ended as cancelled. `reason` says why."""

    def __init__(self, job_id: int, task: str, reason: str | None) -> None:
        self.job_id = job_id
        self.task = task
        self.reason = reason
        super().__init__(f"job {job_id} {task} was cancelled: {reason or 'no reason given'}")


class ResultMissing(PgqueueError, LookupError):
    """A job that was waited for has succeeded, but what it returned could not be stored, has expired, or cannot be
    opened here; or it has ended, and nothing is kept of it."""


class WaitTimeout(PgqueueError, TimeoutError):
    """A job that was waited for has not ended in time. It goes on: nothing was cancelled."""


MAX_MESSAGE = 10_000
MAX_TRACEBACK = 20_000
_OWN_FRAMES = ("pgqueue.worker.", "pgqueue.tasks")  # how the task was called: the same for every error


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """What is recorded of an exception: its class by name, message and traceback, as text that Postgres can store."""

    type: str
    message: str
    traceback: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> "ErrorInfo":
        """Describe `error`. Never raises, whatever the exception's own methods do; keeps no local variables."""
        kind = type(error)
        module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
        return cls(
            storable(module + kind.__qualname__)[:200],
            _shorten(storable(_message(error)), MAX_MESSAGE),
            _shorten(storable(_traceback(error)), MAX_TRACEBACK) or None,
        )


def storable(text: str) -> str:
    """Return `text` with what a Postgres text cannot hold (NUL, lone surrogates) written out."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:  # noqa: BLE001 - a broken __str__ must not lose the attempt
        return f"<str() of the exception raised {type(broken).__name__}>"


def _traceback(error: BaseException) -> str:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith(_OWN_FRAMES):
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except BaseException as broken:  # noqa: BLE001 - as above: formatting calls the exception's own code
        return f"<no traceback: formatting it raised {type(broken).__name__}>"


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
