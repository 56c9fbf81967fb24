"""How an attempt ended in Python: values the executor returns, and the four verdicts a task may raise."""

import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from pgqueue.errors import InvalidOption

MAX_MESSAGE = 10_000
MAX_TRACEBACK = 20_000
_OWN_FRAMES = ("pgqueue.worker.", "pgqueue.tasks")  # how the task was called: the same for every error


def seconds(duration: float | timedelta) -> float:
    """Return a duration given in seconds or as a timedelta in seconds. Raises InvalidOption for anything else."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    try:
        if isinstance(duration, (int, float)) and not isinstance(duration, bool):
            return float(duration)
    except OverflowError:
        pass
    raise InvalidOption(f"{duration!r:.100} cannot be used: give a number of seconds or a timedelta")


class Verdict(Exception):
    """A decision that a task raises about its own job. Not an error: it is never logged as one."""


class Retry(Verdict):
    """Run the job again, after `delay` seconds or after what the task's policy says. Spends the attempt.

    When no attempt is left the job becomes a dead letter. `raise Retry(...) from exc` keeps the cause.
    """

    def __init__(self, reason: str = "retry asked for", *, delay: float | timedelta | None = None) -> None:
        super().__init__(reason)
        self.delay = None if delay is None else seconds(delay)


class Snooze(Verdict):
    """Run the job again after `delay` seconds, without spending an attempt: "not yet"."""

    def __init__(self, delay: float | timedelta, reason: str = "snoozed") -> None:
        super().__init__(reason)
        self.delay = seconds(delay)


class Fail(Verdict):
    """Give up at once: the job becomes a dead letter however many attempts are left."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class Cancel(Verdict):
    """End the job as cancelled: it is no longer wanted, and that is no failure."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class TimedOut(Exception):
    """A job ran longer than its `timeout` or `soft_timeout`. A failure like any other: the policy tries again."""


for _public in (Retry, Snooze, Fail, Cancel, TimedOut):
    _public.__module__ = "pgqueue"  # where users import them from: the name that is stored with an error


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
