"""pgqueue: a transactional job queue for Python that is only Postgres."""

from pgqueue import codecs as codecs
from pgqueue.app import App
from pgqueue.client.client import Client
from pgqueue.client.task import Enqueuer, Task
from pgqueue.errors import (
    CannotOpen,
    ConfigError,
    DatabaseUnreachable,
    DuplicateJob,
    ErrorInfo,
    IdempotencyConflict,
    InvalidArguments,
    InvalidOption,
    InvalidPlan,
    InvalidTask,
    JobFailed,
    JobWasCancelled,
    LeaseLost,
    NotAllowed,
    NotMigrated,
    PgqueueError,
    QueueFull,
    ResultMissing,
    ScheduleExists,
    SnapshotConflict,
    UnknownJob,
    UnknownKey,
    UnknownQueue,
    UnknownSchedule,
    UnknownTask,
    UnsupportedConnection,
    WaitTimeout,
)
from pgqueue.jobs.job import Attempt, Job, JobState
from pgqueue.jobs.keys import Unique
from pgqueue.jobs.retry import Constant, Delays, Exponential, RetryPolicy
from pgqueue.jobs.verdicts import Cancel, Fail, Retry, Snooze, TimedOut
from pgqueue.schedules.cron import Cron
from pgqueue.schedules.plan import At, Every, RRule
from pgqueue.tasks.context import Context
from pgqueue.tasks.spec import ThreadTimeoutWarning

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
    "JobFailed",
    "JobState",
    "JobWasCancelled",
    "LeaseLost",
    "NotAllowed",
    "NotMigrated",
    "PgqueueError",
    "QueueFull",
    "RRule",
    "ResultMissing",
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
    "WaitTimeout",
]
