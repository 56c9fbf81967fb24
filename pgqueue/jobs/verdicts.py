"""Verdicts: exceptions by which a task decides about its own job."""

from datetime import timedelta
from typing import Protocol

from pgqueue.jobs.limits import SharedLimit
from pgqueue.jobs.step import Wakening
from pgqueue.timing import seconds


class Verdict(Exception):
    """A decision of a task about its own job. It is no error, and is never logged as one."""


class Retry(Verdict):
    """Run the job again, after `delay` seconds or, without it, as the task's policy says. Counts the attempt.

    When no attempt is left the job becomes a dead letter. `raise Retry(...) from exc` keeps the cause.
    """

    def __init__(self, reason: str = "retry asked for", *, delay: float | timedelta | None = None) -> None:
        super().__init__(reason)
        self.delay = None if delay is None else seconds(delay)


class Snooze(Verdict):
    """Run the job again after `delay` seconds, and do not count this attempt: "not yet"."""

    def __init__(self, delay: float | timedelta, reason: str = "snoozed") -> None:
        super().__init__(reason)
        self.delay = seconds(delay)


class RateLimited(Snooze):
    """A service has refused the call for now: run the job again after `retry_after` seconds, do not count this attempt,
    and let no other job of the same limit start until then.

    `limit` is the limit, or its name; without it, the one that the task names last. A job that no limit concerns is
    snoozed.
    """

    def __init__(self, retry_after: float | timedelta, limit: SharedLimit | str | None = None) -> None:
        super().__init__(retry_after, "rate limited")
        self.limit = limit.name if isinstance(limit, SharedLimit) else limit


class Fail(Verdict):
    """Give up: the job becomes a dead letter at once, however many attempts are left."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class Cancel(Verdict):
    """End the job as cancelled: its work is no longer wanted. That is no failure."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class Wakes(Protocol):
    """Knows when a job that is asleep goes on."""

    @property
    def wakening(self) -> Wakening: ...


class Asleep(BaseException):
    """The job sleeps or waits, and its attempt ends here: `ctx.sleep` and the waits raise it.

    No Exception, as a cancellation is none: `except Exception` in a task must not let it go on as if it had waited.
    """

    def __init__(self, wakes: Wakes) -> None:
        super().__init__("the job waits")
        self.wakes = wakes


class TimedOut(Exception):
    """A job ran longer than its `timeout` or `soft_timeout`. A failure like any other: the policy tries again."""


class SoftTimeout(TimedOut):
    """A job ran longer than its `soft_timeout`, and could still clean up. Such attempts have the reason *soft
    timeout*; those that `timeout` has ended have *timeout*."""


for _public in (Retry, Snooze, RateLimited, Fail, Cancel, TimedOut, SoftTimeout):
    _public.__module__ = "pgqueue"  # where users import them from: this name is stored with an error
