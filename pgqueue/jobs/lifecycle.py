"""The state machine of a job: the moves that exist, and the move that an outcome leads to.

`TRANSITIONS` is the one table of allowed moves. The statements of `pgqueue.queries` carry the same from-states in
their WHERE; tests/statements/test_state_machine.py drives each verb against each state and compares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.flow import buckets_of
from pgqueue.jobs.job import ClaimedJob, JobState
from pgqueue.jobs.outcome import (
    RETURNED_NONE,
    AskedCancel,
    AskedFail,
    AskedRateLimited,
    AskedRetry,
    AskedSnooze,
    AskedToWait,
    KeyMissing,
    Outcome,
    Raised,
    Replaced,
    Succeeded,
    UnknownHere,
    Unstarted,
)
from pgqueue.jobs.retry import RetryPolicy
from pgqueue.jobs.step import Wakening
from pgqueue.timing import MAX_DELAY


class Move(NamedTuple):
    """The effect of a verb: a job moves from any of `sources` to `target`. Without sources the job is new."""

    sources: frozenset[JobState]
    target: JobState

    @property
    def of_metered(self) -> "Move":
        """The same of a metered job, which waits for its turn as blocked where others wait as pending."""
        return Move(frozenset(map(_of_metered, self.sources)), _of_metered(self.target))


def _of_metered(state: JobState) -> JobState:
    return JobState.BLOCKED if state == JobState.PENDING else state


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
    "meter": _moves(JobState.RUNNING, to=JobState.BLOCKED),
    "replace": _moves(JobState.RUNNING, to=JobState.BLOCKED),
    "set_aside": _moves(JobState.PENDING, to=JobState.BLOCKED),
    "bring_back": _moves(JobState.BLOCKED, to=JobState.PENDING),
    "ready": _moves(JobState.BLOCKED, to=JobState.PENDING),
    "skip": _moves(JobState.BLOCKED, to=JobState.CANCELLED),
    "dead_letter": _moves(JobState.RUNNING, to=JobState.FAILED),
    "withdraw": _moves(JobState.RUNNING, to=JobState.CANCELLED),
    "cancel": _moves(JobState.PENDING, JobState.BLOCKED, to=JobState.CANCELLED),
    "expire": _moves(JobState.PENDING, JobState.BLOCKED, to=JobState.CANCELLED),
    "rescue": _moves(JobState.RUNNING, to=JobState.PENDING),
    "rescue_spent": _moves(JobState.RUNNING, to=JobState.FAILED),
    "rescue_cancelled": _moves(JobState.RUNNING, to=JobState.CANCELLED),
    "redrive": _moves(JobState.FAILED, to=JobState.PENDING),
    "restore": _moves(JobState.CANCELLED, to=JobState.PENDING),
    "discard": _moves(JobState.FAILED, to=JobState.CANCELLED),
}


@dataclass(frozen=True, slots=True)
class Resolution:
    """The end of an attempt as it is written: the verb and its details. `refund`: the attempt is not counted.

    `label`: what the job waits for while it is parked, where that is not its task or version; or, as JSON, the flow of
    a job that is metered from now on. `fingerprint`: of the error of a dead letter. `closes`: the buckets that admit
    nothing for the time of the delay. `wakening`: of a job that sleeps or waits, and is asleep.
    `graph`: what is to run in the place of the job, as text.
    """

    verb: str
    reason: str | None = None
    delay: float = 0.0
    refund: bool = False
    result: str | None = None
    error: ErrorInfo | None = None
    label: str | None = None
    fingerprint: str | None = None
    closes: tuple[str, ...] = ()
    wakening: Wakening | None = None
    graph: str | None = None

    @property
    def target(self) -> JobState:
        """The state the job moves to."""
        return TRANSITIONS[self.verb].target


PLAIN_SUCCESS = Resolution("succeed")  # without a result or an error
MISSING_KEY_DELAY = 30.0  # seconds until a job whose key is missing is tried again, here or by a worker that has it


def decide(job: ClaimedJob, outcome: Outcome, policy: RetryPolicy) -> Resolution:
    """Return the resolution that an outcome leads to. Pure, except for the randomness of the retry policy."""
    if outcome is RETURNED_NONE:  # the usual case
        return PLAIN_SUCCESS
    match outcome:
        case Succeeded(result, error):
            return Resolution("succeed", result=result, error=error)
        case Raised(error, True, reason):
            return Resolution("dead_letter", reason, error=error)
        case Raised(error, _, reason):
            return _retry_or_dead_letter(job, reason, error, lambda: policy.delay(job.attempt))
        case AskedRetry(delay, error):
            return _retry_or_dead_letter(
                job, "retry", error, lambda: policy.delay(job.attempt) if delay is None else delay
            )
        case AskedSnooze(delay, reason):
            return Resolution("snooze", reason, _bounded(delay), refund=True)
        case AskedRateLimited(delay, rule):
            closes = () if rule is None else buckets_of(job.headers, rule)
            return Resolution("snooze", "rate limited", _bounded(delay), refund=True, closes=closes)
        case AskedToWait(wake_at, left):
            delay = MAX_DELAY if left is None else _bounded(left)
            return Resolution("snooze", "asleep", delay, refund=True, wakening=Wakening(wake_at, left))
        case Replaced(graph):
            return Resolution("replace", "stand-in", refund=True, graph=graph)
        case AskedFail(error):
            return Resolution("dead_letter", "rejected", error=error)
        case AskedCancel(reason):
            return Resolution("withdraw", reason)
        case Unstarted():
            return Resolution("release", "released", refund=True)
        case UnknownHere(reason, label):
            return Resolution("park", reason, refund=True, label=label)
        case KeyMissing(error):
            return Resolution("snooze", "sealed", MISSING_KEY_DELAY, refund=True, error=error)
        case _:
            assert_never(outcome)


def _retry_or_dead_letter(job: ClaimedJob, reason: str, error: ErrorInfo, delay: Callable[[], float]) -> Resolution:
    if job.is_last_attempt:
        return Resolution("dead_letter", "exhausted", error=error)
    return Resolution("retry", reason, _bounded(delay()), error=error)


def _bounded(delay: float) -> float:
    """Return a delay that keeps run_at a timestamp Postgres can hold. NaN, from a user's policy, becomes 0."""
    seconds = float(delay)
    return min(seconds, MAX_DELAY) if seconds > 0 else 0.0
