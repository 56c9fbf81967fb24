"""Outcomes: how an attempt ended in Python. The executor returns them; `lifecycle.decide` says what they mean."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from pgqueue.error_info import ErrorInfo


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The task returned. `result` is JSON text; `error` says why a result could not be stored."""

    result: str | None = None
    error: ErrorInfo | None = None


RETURNED_NONE = Succeeded()


@dataclass(frozen=True, slots=True)
class Raised:
    """The task raised an error. `permanent`: no retry can help."""

    error: ErrorInfo
    permanent: bool = False
    reason: str = "error"


@dataclass(frozen=True, slots=True)
class AskedRetry:
    """The task raised Retry."""

    delay: float | None
    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class AskedSnooze:
    """The task raised Snooze."""

    delay: float
    reason: str


@dataclass(frozen=True, slots=True)
class AskedRateLimited:
    """The task raised RateLimited. `rule`: whose bucket is closed for so long; None where the task has none."""

    delay: float
    rule: str | None


@dataclass(frozen=True, slots=True)
class AskedToWait:
    """The task sleeps or waits without its slot. `wake_at`: when it goes on by itself, by the database's clock, and
    `left` in how many seconds; None for never."""

    wake_at: datetime | None
    left: float | None


@dataclass(frozen=True, slots=True)
class Replaced:
    """The task has returned what is to run in the place of its job. `graph`: as text."""

    graph: str


@dataclass(frozen=True, slots=True)
class AskedFail:
    """The task raised Fail."""

    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class AskedCancel:
    """The task raised Cancel, or the job was cancelled while it ran."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unstarted:
    """The attempt never ran, or a stopping worker cut it off: the job is given back, and the attempt not counted."""


@dataclass(frozen=True, slots=True)
class UnknownHere:
    """This worker has no task of that name, only an older version of it, or one without parameters that the job has.

    `label`: the job is parked under this instead of its version.
    """

    reason: str = "unknown task"
    label: str | None = None


@dataclass(frozen=True, slots=True)
class KeyMissing:
    """The arguments are sealed with a key that this worker does not have."""

    error: ErrorInfo


Outcome: TypeAlias = (
    Succeeded
    | Raised
    | AskedRetry
    | AskedSnooze
    | AskedRateLimited
    | AskedToWait
    | Replaced
    | AskedFail
    | AskedCancel
    | Unstarted
    | UnknownHere
    | KeyMissing
)
