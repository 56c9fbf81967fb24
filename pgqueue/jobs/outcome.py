"""How an attempt ended in Python: values the executor returns, and the four verdicts a task may raise."""

from dataclasses import dataclass
from typing import TypeAlias

from pgqueue.error_info import ErrorInfo


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The task returned. `result` is JSON text; `error` says why a result could not be stored."""

    result: str | None = None
    error: ErrorInfo | None = None


DONE = Succeeded()  # and returned nothing


@dataclass(frozen=True, slots=True)
class Raised:
    """The task raised. `permanent` if the error can never go away by trying again."""

    error: ErrorInfo
    permanent: bool = False
    reason: str = "error"


@dataclass(frozen=True, slots=True)
class AskedRetry:
    """The task raised Retry."""

    delay: float | None
    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The task raised Snooze."""

    delay: float
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The task raised Fail."""

    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The task raised Cancel."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unstarted:
    """The attempt never ran, or was cut off by a stopping worker: give the job back, uncharged."""


@dataclass(frozen=True, slots=True)
class UnknownHere:
    """No task of that name is registered in this worker, or only an older version of it."""

    reason: str = "unknown task"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The arguments are sealed with a key that this worker does not have."""

    error: ErrorInfo


Outcome: TypeAlias = (
    Succeeded | Raised | AskedRetry | Snoozed | Rejected | Withdrawn | Unstarted | UnknownHere | Unreadable
)
