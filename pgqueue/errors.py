"""The errors of pgqueue, one tree:

PgqueueError                     anything that pgqueue refuses or cannot do
├── ConfigError                  a setting, a name or a reference cannot be used
│   └── MissingExtra             a part of pgqueue needs a package that is not installed
├── InvalidInput                 the caller passed something that cannot be used
│   ├── InvalidArguments         arguments do not fit the task, or cannot be stored as JSON
│   ├── InvalidEvent             an event's topic, data or key cannot be used
│   ├── InvalidOption            a queue, priority, delay, tag … is out of its bounds
│   ├── InvalidPlan              a cron expression, interval, moment or timezone cannot be used
│   ├── InvalidSignature         a webhook was not signed, or not with this secret
│   ├── InvalidStep              a step's name cannot be used, or its value cannot be recorded
│   ├── InvalidTask              a function cannot be a task
│   ├── InvalidWorkflow          a canvas or a workflow cannot be built as it was written
│   ├── UnknownVerb              an attribute has the name that another library has for it
│   ├── UnsupportedConnection    `using(conn)` got an object that is no Postgres connection it can borrow
│   └── NoTransaction            verbs were to join the transaction of a request, and cannot
├── NotFound                     nothing has that name or id
│   ├── UnknownEvent             no event has that id
│   ├── UnknownJob               no job has that id
│   ├── UnknownLimit             no limit has that name
│   ├── UnknownLock              nobody holds a lock of that name
│   ├── UnknownQueue             a limit names a queue that the worker does not serve
│   ├── UnknownSchedule          no schedule has that name
│   ├── UnknownShard             no schema is a shard of the app
│   ├── UnknownSubscription      the task gets no events
│   ├── UnknownTask              no task of that name is registered
│   ├── UnknownWorker            no living worker has that id, host or host:pid
│   └── UnknownWorkflow          no workflow has that id
├── Conflict                     other jobs, schedules or holders are in the way
│   ├── DuplicateJob             another job holds the unique key, and the call said on_conflict="raise"
│   ├── IdempotencyConflict      an idempotency key was used before, with other arguments
│   ├── LockHeld                 somebody else holds the named lock
│   ├── QueueFull                the queue holds as many jobs as it may
│   ├── ScheduleExists           a schedule has that name already
│   ├── SnapshotConflict         a transaction that this one's snapshot cannot see has taken a key
│   ├── WrongState               the job is in a state in which this cannot be done to it
│   ├── WorkflowRunning          jobs of the workflow wait or run
│   ├── WorkflowEnded            the workflow has ended: nothing can be added to it
│   └── WorkflowIncomplete       retention has dropped jobs of the workflow
├── WaitError                    waiting for a job brought no result
│   ├── JobFailed                the job is a dead letter
│   ├── JobWasCancelled          the job ended as cancelled
│   ├── CallFailed               a job that a task has called did not succeed
│   ├── ResultMissing            the job has succeeded, but its result is not there
│   └── WaitTimeout              the job has not ended in time
├── DatabaseNotReady             the database cannot be used as it is
│   ├── DatabaseUnreachable      no connection to Postgres
│   ├── MigrationBlocked         a transaction holds a table that a migration needs
│   ├── NotAllowed               the database role may not do this
│   ├── NotMigrated              the schema is missing or older than this pgqueue
│   ├── ReadOnlyDatabase         the server takes no writes: a standby, or read-only
│   ├── OlderReleaseRuns         a process lives that a contract migration would break
│   ├── ReleaseTooOld            the schema needs a newer release of pgqueue
│   └── SchemaNewer              a newer release of pgqueue has migrated the schema
├── CodecError                   sealed data cannot be opened
│   ├── CannotOpen               it was altered, or moved to a place where it does not belong
│   └── UnknownKey               it needs a key, or a codec, that is not here
├── LeaseLost                    the job was taken from this worker and runs elsewhere
├── LockLost                     a named lock has ended while its block ran
└── StepMismatch                 the code of a task does not agree with the steps that are recorded

`exit_code` is the status with which the command line ends after such an error.
"""

from datetime import datetime
from typing import Any

from pgqueue.error_info import ErrorInfo


class PgqueueError(Exception):
    """Anything that pgqueue refuses or cannot do. The message names the thing and says what to do instead."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle what the error holds: many classes take other arguments than the message."""
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[PgqueueError], args: tuple[Any, ...]) -> PgqueueError:
    return kind.__new__(kind, *args)


class ConfigError(PgqueueError):
    """A setting, a name or a reference cannot be used."""

    exit_code = 78


class MissingExtra(ConfigError, ModuleNotFoundError):
    """A part of pgqueue needs a package that is not installed."""


class InvalidInput(PgqueueError):
    """The caller passed something that cannot be used. Nothing was written."""


class InvalidArguments(InvalidInput, ValueError):
    """Arguments do not fit the task's signature, or cannot be stored as JSON. Nothing was written."""

    exit_code = 2

    def __init__(self, task: str, problems: list[str]) -> None:
        self.task = task
        self.problems = problems
        super().__init__(f"cannot call {task}: " + "; ".join(problems))

    def at(self, position: int) -> "InvalidArguments":
        """Return the error as that of one of many calls, by its position."""
        return InvalidArguments(self.task, [f"call {position}: {problem}" for problem in self.problems])


class InvalidEvent(InvalidInput, ValueError):
    """The topic, the data or the key of an event cannot be used. Nothing was written."""

    exit_code = 2

    def __init__(self, topic: str, problems: list[str]) -> None:
        self.topic = topic
        self.problems = problems
        super().__init__(f"cannot publish {topic}: " + "; ".join(problems))

    def at(self, position: int) -> "InvalidEvent":
        """Return the error as that of one of many events, by its position."""
        return InvalidEvent(self.topic, [f"event {position}: {problem}" for problem in self.problems])


class InvalidOption(InvalidInput, ValueError):
    """An option of a job, a task, an app or a process is out of its bounds. Nothing was written."""

    exit_code = 2


class InvalidPlan(InvalidInput, ValueError):
    """A schedule's cron expression, interval, moment or timezone cannot be used. Nothing was written."""

    exit_code = 2


class InvalidSignature(InvalidInput, ValueError):
    """A request was not signed by Standard Webhooks with the receiver's secret, or too long ago."""


class InvalidStep(InvalidInput, ValueError):
    """A durable step has a name that cannot be used or is in use, or a value that cannot be recorded."""


class InvalidTask(InvalidInput, TypeError):
    """A function cannot be registered as a task."""


class InvalidWorkflow(InvalidInput, ValueError):
    """A canvas, workflow or batch cannot be built as it was written, or its graph cannot run: it has a circle, an empty
    group, or an edge that leads nowhere. Nothing was written."""

    exit_code = 2


class UnknownVerb(InvalidInput, AttributeError):
    """Something of pgqueue has no such attribute: another job queue calls it so. The message has our name for it.

    It is an AttributeError as well, so that `hasattr` and `getattr` with a default do what they always do.
    """

    def __init__(self, owner: str, name: str, instead: str) -> None:
        super().__init__(f"{owner} has no {name!r}, a name of other job queues: here it is {instead}")
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        again, args, held = super().__reduce__()
        return again, args, held | {"name": self.name}  # which AttributeError keeps beside what others hold


class UnsupportedConnection(InvalidInput, TypeError):
    """`using(conn)` was given an object that is not a Postgres connection pgqueue can borrow."""


class NoTransaction(InvalidInput, RuntimeError):
    """Verbs were to join the transaction of a request, and cannot: none is open here, or a block of `app.bound` was not
    around them."""


class NotFound(PgqueueError, LookupError):
    """Nothing has that name or id."""


class UnknownEvent(NotFound):
    """No event has that id: it never existed, its transaction rolled back, or retention dropped it."""


class UnknownJob(NotFound):
    """No job has that id: it never existed, its transaction rolled back, or retention dropped it."""


class UnknownLimit(NotFound):
    """No limit has that name. Nothing was changed."""


class UnknownLock(NotFound):
    """Nobody holds a lock of that name, or the one who does has another token. Nothing was changed."""


class UnknownQueue(NotFound):
    """A limit names a queue that the worker does not serve."""

    exit_code = 2


class UnknownSchedule(NotFound):
    """No schedule has that name. Nothing was written."""


class UnknownShard(NotFound):
    """No schema is a shard of the app."""


class UnknownSubscription(NotFound):
    """The task gets no events: no code that has run here gives it a pattern. Nothing was changed."""


class UnknownTask(NotFound):
    """No task of that name is registered with this app."""

    exit_code = 2


class UnknownWorker(NotFound):
    """No living worker or scheduler has that id, host or host:pid. Nothing was written."""


class UnknownWorkflow(NotFound):
    """No workflow has that id: it never existed, its transaction rolled back, or retention dropped it."""


class Conflict(PgqueueError):
    """Other jobs, schedules or holders are in the way. The call wrote nothing."""


class DuplicateJob(Conflict):
    """Job `job_id` (None: another one of the same call) holds the unique key, and the call said on_conflict="raise".
    The call wrote nothing, and the transaction stays usable."""

    def __init__(self, task: str, key: str, job_id: int | None) -> None:
        self.task, self.key, self.job_id = task, key, job_id
        by = "another job of the same call" if job_id is None else f"job {job_id}"
        super().__init__(f"unique key {key!r:.200} of task {task} is held by {by}")


class IdempotencyConflict(Conflict):
    """Job `job_id` (None: another one of the same call) used the idempotency key before, for the same task with other
    arguments. The call wrote nothing, and the transaction stays usable."""

    def __init__(self, task: str, key: str, job_id: int | None) -> None:
        self.task, self.key, self.job_id = task, key, job_id
        by = "in the same call" if job_id is None else f"by job {job_id}"
        super().__init__(
            f"idempotency key {key!r:.200} of task {task} was used with other arguments, {by}: use a key for one "
            "request only"
        )


class LockHeld(Conflict):
    """Somebody else holds the named lock: `holder` says who, and `job_id` which job, if the task of one does.

    It is theirs until `expires_at`, and longer if they renew it. `waited`: for how many seconds the call has waited.
    """

    def __init__(self, key: str, holder: str, job_id: int | None, expires_at: datetime, waited: float = 0.0) -> None:
        self.key, self.holder, self.job_id, self.expires_at, self.waited = key, holder, job_id, expires_at, waited
        until = f"until {expires_at.isoformat(' ', 'seconds')}, and longer if it is renewed"
        after = f": it was not free within {waited:g} s" if waited else ""
        super().__init__(f"lock {key!r:.210} is held by {holder} {until}{after}")


class QueueFull(Conflict):
    """The queue holds as many waiting jobs as App(max_depth=…) allows. The call wrote nothing."""

    def __init__(self, queue: str, depth: int, max_depth: int) -> None:
        self.queue, self.depth, self.max_depth = queue, depth, max_depth
        super().__init__(
            f"queue {queue} is full: about {depth} jobs wait there, and max_depth is {max_depth}: "
            "enqueue later, or raise max_depth"
        )


class ScheduleExists(Conflict):
    """A schedule has that name already. Nothing was written."""

    exit_code = 2


class SnapshotConflict(Conflict):
    """A transaction that committed after this one's snapshot has taken the same key. Repeatable read and serializable
    keep that snapshot to the end, so this transaction cannot see which job has the key: try again in a new one. The
    call wrote nothing, and the transaction stays usable."""

    sqlstate = "40001"  # serialization_failure: callers that retry by SQLSTATE retry this, too


class WrongState(Conflict):
    """The job is in a state in which this cannot be done to it. Nothing was written. `state` is its state or phase."""

    def __init__(self, job_id: int, state: str, why: str) -> None:
        self.job_id, self.state = job_id, state
        super().__init__(f"job {job_id} {why}")


class WorkflowRunning(Conflict):
    """Jobs of the workflow still wait or run, so it cannot be retried yet: wait for its end, or cancel it."""

    def __init__(self, workflow: int) -> None:
        self.workflow = workflow
        super().__init__(f"jobs of workflow {workflow} still wait or run: wait for its end, or cancel it, to retry it")


class WorkflowEnded(Conflict):
    """The workflow has ended, so nothing can be added to it. Nothing was written."""

    def __init__(self, workflow: int, state: str) -> None:
        self.workflow, self.state = workflow, state
        super().__init__(
            f"workflow {workflow} has ended ({state}), and nothing can be added to it: add before its last job ends, "
            "or let it be open (sealed=False) until you seal it"
        )


class WorkflowIncomplete(Conflict):
    """Jobs of the workflow are gone, dropped by retention or deleted, so it cannot be retried: what runs again would
    miss their results. Nothing was changed."""

    def __init__(self, workflow: int, missing: int) -> None:
        self.workflow, self.missing = workflow, missing
        super().__init__(
            f"{missing} jobs of workflow {workflow} are gone, dropped by retention: it cannot be retried, "
            "enqueue it anew"
        )


class WaitError(PgqueueError):
    """Waiting for a job brought no result."""


class JobFailed(WaitError):
    """The job is a dead letter. `reason` says why it was given up, `error` is what its last attempt raised."""

    def __init__(self, job_id: int, task: str, reason: str | None, error: ErrorInfo | None) -> None:
        self.job_id = job_id
        self.task = task
        self.reason = reason
        self.error = error
        raised = f": {error.type}: {error.message}" if error else ""
        super().__init__(f"job {job_id} {task} failed ({reason or 'failed'}){raised}")


class JobWasCancelled(WaitError):
    """The job ended as cancelled. `reason` says why."""

    def __init__(self, job_id: int, task: str, reason: str | None) -> None:
        self.job_id = job_id
        self.task = task
        self.reason = reason
        super().__init__(f"job {job_id} {task} was cancelled: {reason or 'no reason given'}")


class CallFailed(WaitError):
    """A job that a task has called by `ctx.call` or `ctx.gather` did not succeed: `job_id` and `task` say which one,
    the first of several. `state` is "failed" for a dead letter, "cancelled", or None for a job that is gone; `reason`
    and `error` say why. The step has recorded this: a task that does not catch it becomes a dead letter at once.
    """

    def __init__(
        self, step: str, job: tuple[int, str, str | None, str | None, ErrorInfo | None], more: str = ""
    ) -> None:
        self.step = step
        self.job_id, self.task, self.state, self.reason, self.error = job
        match self.state:
            case "failed":
                how = f"is a dead letter ({self.reason or 'failed'})"
            case "cancelled":
                how = f"was cancelled ({self.reason or 'no reason given'})"
            case _:
                how = "is gone: neither its row nor its result was kept"
        raised = f": {self.error.type}: {self.error.message}" if self.error else ""
        super().__init__(f"call {step!r}: job {self.job_id} {self.task} {how}{raised}{more}")


CallFailed.__module__ = "pgqueue"  # this name is stored with the dead letter


class ResultMissing(WaitError, LookupError):
    """The job has succeeded, but its result could not be stored, has expired, or cannot be opened here; or the job has
    ended, and neither its row nor its result was kept."""


class WaitTimeout(WaitError, TimeoutError):
    """The job has not ended in time. It goes on: waiting cancels nothing."""


class DatabaseNotReady(PgqueueError):
    """The database cannot be used as it is: no connection, no schema, a missing privilege, or a lock in the way."""


class DatabaseUnreachable(DatabaseNotReady):
    """No connection to Postgres could be made, or it was lost."""

    exit_code = 69


class MigrationBlocked(DatabaseNotReady):
    """A migration could not lock a table within seconds, and was not done: try again."""


class NotAllowed(DatabaseNotReady):
    """The role of the connection lacks a privilege. docs/roles.md says which roles need which."""

    exit_code = 78


class NotMigrated(DatabaseNotReady):
    """pgqueue's schema is missing in this database, or older than this version needs."""

    exit_code = 78

    def with_remedy(self, command: str) -> "NotMigrated":
        """Return the same error, naming another command than `pgqueue migrate`: that of a framework."""
        return NotMigrated(str(self).replace("`pgqueue migrate`", f"`{command}`"))


class ReadOnlyDatabase(DatabaseNotReady):
    """The database takes no writes on this connection: it is a standby, or it, the role or the transaction is
    read-only. Nothing was written. What only reads works there."""

    exit_code = 69
    sqlstate = "25006"  # read_only_sql_transaction


class OlderReleaseRuns(DatabaseNotReady):
    """A process of an older release lives that this would break: a contract migration would take away what it uses, or
    it would not tell what waits for the jobs of a workflow. Nothing was changed: stop that process."""


class ReleaseTooOld(DatabaseNotReady):
    """A contract migration has taken away what this release of pgqueue uses: install a newer one."""

    exit_code = 78


class SchemaNewer(DatabaseNotReady):
    """A newer release of pgqueue has migrated the schema: this one cannot migrate it. Workers of this release go on."""

    exit_code = 79


class CodecError(PgqueueError):
    """Sealed data cannot be opened."""


class CannotOpen(CodecError, ValueError):
    """Sealed data does not open with its key: it was altered, moved to another task, or the key is another one."""


class UnknownKey(CodecError, LookupError):
    """Data is sealed with a key that this codec does not have. Other workers may have it: the job waits for them."""

    exit_code = 78


for _stored in (UnknownKey, CannotOpen):
    _stored.__module__ = "pgqueue"  # where users import them from: this name is stored with an error


class LeaseLost(PgqueueError):
    """The worker was declared lost and its job runs elsewhere: this attempt changes nothing."""


class LockLost(PgqueueError):
    """A named lock has ended while its block ran: it was not renewed in time, or an operator released it. What the
    block did may have run beside another holder's."""

    def __init__(self, key: str, token: int, why: str) -> None:
        self.key, self.token = key, token
        super().__init__(f"lock {key!r:.210} with token {token} was lost: {why}")


class StepMismatch(PgqueueError):
    """The code of a task does not agree with what is recorded of its job: another kind of step, or another type of its
    value. No retry can help, so the job becomes a dead letter at once; its steps stay."""


StepMismatch.__module__ = "pgqueue"  # this name is stored with the dead letter
