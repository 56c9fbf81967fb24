"""pgqueue: a transactional job queue for Python that is only Postgres."""

from pgqueue import codecs as codecs
from pgqueue.app import App, Enqueuer, Task
from pgqueue.client import Client
from pgqueue.context import Context
from pgqueue.errors import (
    CannotOpen,
    ConfigError,
    DatabaseUnreachable,
    DuplicateJob,
    IdempotencyConflict,
    InvalidArguments,
    InvalidOption,
    InvalidPlan,
    InvalidTask,
    LeaseLost,
    NotAllowed,
    NotMigrated,
    PgqueueError,
    QueueFull,
    ScheduleExists,
    SnapshotConflict,
    UnknownJob,
    UnknownKey,
    UnknownQueue,
    UnknownSchedule,
    UnknownTask,
    UnsupportedConnection,
)
from pgqueue.job import Attempt, Job, JobState
from pgqueue.outcome import Cancel, ErrorInfo, Fail, Retry, Snooze, TimedOut
from pgqueue.plan import At, Cron, Every, RRule
from pgqueue.retry import Constant, Delays, Exponential, RetryPolicy
from pgqueue.tasks import ThreadTimeoutWarning
from pgqueue.terms import Unique

__all__ = [
    "App",
    "At",
    "Attempt",
    "Cancel",
    "CannotOpen",
    "Client",
    "ConfigError",
    "Constant",
    "Context",
    "Cron",
    "DatabaseUnreachable",
    "Delays",
    "DuplicateJob",
    "Enqueuer",
    "ErrorInfo",
    "Every",
    "Exponential",
    "Fail",
    "IdempotencyConflict",
    "InvalidArguments",
    "InvalidOption",
    "InvalidPlan",
    "InvalidTask",
    "Job",
    "JobState",
    "LeaseLost",
    "NotAllowed",
    "NotMigrated",
    "PgqueueError",
    "QueueFull",
    "RRule",
    "Retry",
    "RetryPolicy",
    "ScheduleExists",
    "SnapshotConflict",
    "Snooze",
    "Task",
    "ThreadTimeoutWarning",
    "TimedOut",
    "Unique",
    "UnknownJob",
    "UnknownKey",
    "UnknownQueue",
    "UnknownSchedule",
    "UnknownTask",
    "UnsupportedConnection",
]
