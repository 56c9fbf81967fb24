"""The verdicts that a task raises about its own job."""

from datetime import timedelta

from pgqueue.timing import seconds


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
