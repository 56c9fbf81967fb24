"""The state machine of a job: which moves exist, and which one an outcome calls for.

`TRANSITIONS` is the one table of allowed moves. The statements of `pgqueue.queries` carry the same from-states in
their WHERE; tests/test_state_machine.py drives each verb against each state and compares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import ClaimedJob, JobState
from pgqueue.jobs.outcome import (
    DONE,
    AskedRetry,
    Outcome,
    Raised,
    Rejected,
    Snoozed,
    Succeeded,
    UnknownHere,
    Unreadable,
    Unstarted,
    Withdrawn,
)
from pgqueue.jobs.retry import RetryPolicy
from pgqueue.timing import MAX_DELAY


class Move(NamedTuple):
    """A verb's effect: from any of `sources` to `target`. No source: the job is new."""

    sources: frozenset[JobState]
    target: JobState


def _moves(*sources: JobState, to: JobState) -> Move:
    return Move(frozenset(sources), to)


TRANSITIONS: dict[str, Move] = {
    "enqueue": _moves(to=JobState.PENDING),
    "claim": _moves(JobState.PENDING, to=JobState.RUNNING),
    "adopt": _moves(JobState.BLOCKED, to=JobState.RUNNING),
    "succeed": _moves(JobState.RUNNING, to=JobState.SUCCEEDED),
    "retry": _moves(JobState.RUNNING, to=JobState.PENDING),
    "snooze": _moves(JobState.RUNNING, to=JobState.PENDING),
    "release": _moves(JobState.RUNNING, to=JobState.PENDING),
    "park": _moves(JobState.RUNNING, to=JobState.BLOCKED),
    "dead_letter": _moves(JobState.RUNNING, to=JobState.FAILED),
    "withdraw": _moves(JobState.RUNNING, to=JobState.CANCELLED),
    "cancel": _moves(JobState.PENDING, JobState.BLOCKED, to=JobState.CANCELLED),
    "expire": _moves(JobState.PENDING, JobState.BLOCKED, to=JobState.CANCELLED),
    "rescue": _moves(JobState.RUNNING, to=JobState.PENDING),
    "rescue_spent": _moves(JobState.RUNNING, to=JobState.FAILED),
    "rescue_cancelled": _moves(JobState.RUNNING, to=JobState.CANCELLED),
}


@dataclass(frozen=True, slots=True)
class Resolution:
    """What to write about an attempt: the verb, and what goes with it. `refund` gives the attempt back."""

    verb: str
    reason: str | None = None
    delay: float = 0.0
    refund: bool = False
    result: str | None = None
    error: ErrorInfo | None = None

    @property
    def target(self) -> JobState:
        """The state the job moves to."""
        return TRANSITIONS[self.verb].target


SUCCEEDED = Resolution("succeed")  # and nothing to tell
KEY_SECONDS = 30.0  # until a job whose key is missing is tried again, here or by a worker that has it


def decide(job: ClaimedJob, outcome: Outcome, policy: RetryPolicy) -> Resolution:
    """Return what an outcome means for its job. Pure, but for the policy's own randomness."""
    if outcome is DONE:  # nearly always
        return SUCCEEDED
    match outcome:
        case Succeeded(result, error):
            return Resolution("succeed", result=result, error=error)
        case Raised(error, True, reason):
            return Resolution("dead_letter", reason, error=error)
        case Raised(error, _, reason):
            return _again(job, reason, error, lambda: policy.delay(job.attempt))
        case AskedRetry(delay, error):
            return _again(job, "retry", error, lambda: policy.delay(job.attempt) if delay is None else delay)
        case Snoozed(delay, reason):
            return Resolution("snooze", reason, _bounded(delay), refund=True)
        case Rejected(error):
            return Resolution("dead_letter", "rejected", error=error)
        case Withdrawn(reason):
            return Resolution("withdraw", reason)
        case Unstarted():
            return Resolution("release", "released", refund=True)
        case UnknownHere(reason):
            return Resolution("park", reason, refund=True)
        case Unreadable(error):
            return Resolution("snooze", "sealed", KEY_SECONDS, refund=True, error=error)
        case _:
            assert_never(outcome)


def _again(job: ClaimedJob, reason: str, error: ErrorInfo, delay: Callable[[], float]) -> Resolution:
    if job.is_last_attempt:
        return Resolution("dead_letter", "exhausted", error=error)
    return Resolution("retry", reason, _bounded(delay()), error=error)


def _bounded(delay: float) -> float:
    """Keep run_at a timestamp that Postgres can hold; a NaN from a user's policy counts as zero."""
    seconds = float(delay)
    return min(seconds, MAX_DELAY) if seconds > 0 else 0.0
