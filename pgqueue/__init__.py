"""pgqueue: a transactional job queue for Python that is only Postgres."""

from pgqueue import codecs as codecs
from pgqueue.app import App
from pgqueue.client.canvas.batch import Batch
from pgqueue.client.canvas.canvas import Canvas, Signature
from pgqueue.client.canvas.composing import chain, chord, group
from pgqueue.client.canvas.nodes import Node
from pgqueue.client.canvas.run import WorkflowRun
from pgqueue.client.canvas.workflow import Workflow
from pgqueue.client.client import Client
from pgqueue.client.enqueue_hooks import EnqueueCall
from pgqueue.client.named_lock import NamedLock
from pgqueue.client.schedule_options import ScheduleOptions
from pgqueue.client.steps import OWN_CONNECTION
from pgqueue.client.task import ContextTask, Enqueuer, Task
from pgqueue.error_info import ErrorInfo
from pgqueue.errors import (
    CallFailed,
    CannotOpen,
    CodecError,
    ConfigError,
    Conflict,
    DatabaseNotReady,
    DatabaseUnreachable,
    DuplicateJob,
    IdempotencyConflict,
    InvalidArguments,
    InvalidEvent,
    InvalidInput,
    InvalidOption,
    InvalidPlan,
    InvalidStep,
    InvalidTask,
    InvalidWorkflow,
    JobFailed,
    JobWasCancelled,
    LeaseLost,
    LockHeld,
    LockLost,
    MigrationBlocked,
    NotAllowed,
    NotFound,
    NotMigrated,
    OlderReleaseRuns,
    PgqueueError,
    QueueFull,
    ReleaseTooOld,
    ResultMissing,
    ScheduleExists,
    SchemaNewer,
    SnapshotConflict,
    StepMismatch,
    UnknownEvent,
    UnknownJob,
    UnknownKey,
    UnknownLimit,
    UnknownLock,
    UnknownQueue,
    UnknownSchedule,
    UnknownSubscription,
    UnknownTask,
    UnknownWorker,
    UnknownWorkflow,
    UnsupportedConnection,
    WaitError,
    WaitTimeout,
    WorkflowEnded,
    WorkflowIncomplete,
    WorkflowRunning,
    WrongState,
)
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.ended import Outcome
from pgqueue.jobs.event import Event, Published, Replayed
from pgqueue.jobs.job import Attempt, Job, JobState, Note
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.keys import Unique
from pgqueue.jobs.limits import Breaker, Limit, Ordered, Rate, SharedLimit
from pgqueue.jobs.retention import Retention
from pgqueue.jobs.retry import Constant, Delays, Exponential, RetryPolicy
from pgqueue.jobs.verdicts import Cancel, Fail, RateLimited, Retry, Snooze, TimedOut
from pgqueue.jobs.why import Reason, Why
from pgqueue.schedules.cron import Cron
from pgqueue.schedules.plan import At, Every, RRule
from pgqueue.tasks.context import Context
from pgqueue.tasks.hooks import AttemptEnd
from pgqueue.tasks.options import CallOptions, TaskOptions
from pgqueue.tasks.results import Results
from pgqueue.tasks.spec import ThreadTimeoutWarning

__all__ = [
    "OWN_CONNECTION",
    "App",
    "At",
    "Attempt",
    "AttemptEnd",
    "Batch",
    "Breaker",
    "CallFailed",
    "CallOptions",
    "Cancel",
    "CannotOpen",
    "Canvas",
    "Client",
    "CodecError",
    "ConfigError",
    "Conflict",
    "Constant",
    "Context",
    "ContextTask",
    "Cron",
    "DatabaseNotReady",
    "DatabaseUnreachable",
    "DeadFilter",
    "Delays",
    "DuplicateJob",
    "EnqueueCall",
    "Enqueuer",
    "ErrorInfo",
    "Event",
    "Every",
    "Exponential",
    "Fail",
    "IdempotencyConflict",
    "InvalidArguments",
    "InvalidEvent",
    "InvalidInput",
    "InvalidOption",
    "InvalidPlan",
    "InvalidStep",
    "InvalidTask",
    "InvalidWorkflow",
    "Job",
    "JobFailed",
    "JobFilter",
    "JobState",
    "JobWasCancelled",
    "LeaseLost",
    "Limit",
    "LockHeld",
    "LockLost",
    "MigrationBlocked",
    "NamedLock",
    "Node",
    "NotAllowed",
    "NotFound",
    "NotMigrated",
    "Note",
    "OlderReleaseRuns",
    "Ordered",
    "Outcome",
    "PgqueueError",
    "Published",
    "QueueFull",
    "RRule",
    "Rate",
    "RateLimited",
    "Reason",
    "ReleaseTooOld",
    "Replayed",
    "ResultMissing",
    "Results",
    "Retention",
    "Retry",
    "RetryPolicy",
    "ScheduleExists",
    "ScheduleOptions",
    "SchemaNewer",
    "SharedLimit",
    "Signature",
    "SnapshotConflict",
    "Snooze",
    "StepMismatch",
    "Task",
    "TaskOptions",
    "ThreadTimeoutWarning",
    "TimedOut",
    "Unique",
    "UnknownEvent",
    "UnknownJob",
    "UnknownKey",
    "UnknownLimit",
    "UnknownLock",
    "UnknownQueue",
    "UnknownSchedule",
    "UnknownSubscription",
    "UnknownTask",
    "UnknownWorker",
    "UnknownWorkflow",
    "UnsupportedConnection",
    "WaitError",
    "WaitTimeout",
    "Why",
    "Workflow",
    "WorkflowEnded",
    "WorkflowIncomplete",
    "WorkflowRun",
    "WorkflowRunning",
    "WrongState",
    "chain",
    "chord",
    "group",
]
