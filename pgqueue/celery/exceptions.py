"""The exceptions of Celery that tasks and callers name. Those that a task raises about itself are our verdicts."""

import builtins
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from pgqueue.error_info import ErrorInfo
from pgqueue.errors import ConfigError, DatabaseUnreachable, PgqueueError, UnknownTask, WaitTimeout
from pgqueue.jobs import verdicts

NotRegistered = UnknownTask
ImproperlyConfigured = ConfigError
OperationalError = DatabaseUnreachable
TimeoutError = WaitTimeout  # noqa: A001  # Celery's name


class CeleryWarning(UserWarning):
    """Something that is written for Celery means nothing here, or another thing."""


class TaskPredicate(verdicts.Verdict):
    """What a task raises to decide about its own job."""


class Retry(TaskPredicate, verdicts.Retry):
    """The job runs again. `self.retry(…)` raises it.

    `when` is the countdown in seconds, a moment, or None; `exc` the error for which the task asked.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        delay = when if isinstance(when, (int, float)) else None
        verdicts.Retry.__init__(self, message or (f"retry: {exc!r:.200}" if exc else "retry asked for"), delay=delay)
        self.message, self.exc, self.when, self.is_eager, self.sig = message, exc, when, is_eager, sig


class Ignore(TaskPredicate, verdicts.Cancel):
    """The job ends as cancelled, REVOKED in Celery's words: a job has a state here, whatever becomes of it."""

    def __init__(self, reason: str = "ignored by its task") -> None:
        verdicts.Cancel.__init__(self, reason)


class Reject(TaskPredicate):
    """The job becomes a dead letter at once; with `requeue` it runs again after a second, and no attempt is counted."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        super().__init__(f"rejected: {reason}" if reason else "rejected by its task")
        self.reason, self.requeue = reason, requeue

    def verdict(self) -> verdicts.Verdict:
        """Return what it means for the job."""
        return verdicts.Snooze(1.0, str(self)) if self.requeue else verdicts.Fail(str(self))


class Replaced(TaskPredicate):
    """`self.replace(…)` ends the task: something else runs in its place."""

    def __init__(self, stand_in: Any) -> None:
        super().__init__("replaced")
        self.stand_in = stand_in


class MaxRetriesExceededError(PgqueueError):
    """`self.retry()` was called once more than `max_retries` allows, and without `exc`."""

    def __init__(self, message: str, task_args: Sequence[Any] = (), task_kwargs: Any = None) -> None:
        super().__init__(message)
        self.task_args, self.task_kwargs = task_args, task_kwargs


class SoftTimeLimitExceeded(verdicts.SoftTimeout):
    """`soft_time_limit` has passed: raised in the task, wherever it is."""


class TimeLimitExceeded(verdicts.TimedOut):
    """`time_limit` has passed: the child process of the task was killed."""


class TaskError(PgqueueError):
    """A task has failed with an error whose class is not known here; the message names that class."""


class TaskRevokedError(PgqueueError):
    """The job was cancelled, or has expired."""


class WorkerLostError(PgqueueError):
    """The process that ran the task has died."""


def known_error(error: ErrorInfo, named: Iterable[type[BaseException]]) -> BaseException:
    """Return an exception of the class that an error had, where that class is known without an import: a builtin one,
    or one of those that are named; else a TaskError."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in named}
    kind = kinds.get(error.type) or getattr(builtins, error.type.removeprefix("builtins."), None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(error.message)
        except Exception:  # noqa: BLE001, S110 - its constructor is the user's, and may want more
            pass
    return TaskError(f"{error.type}: {error.message}")
