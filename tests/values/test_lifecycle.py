"""What each outcome of an attempt means for its job."""

import math
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue import Constant, ErrorInfo, JobState, Retry, Snooze
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import TRANSITIONS, Resolution, decide
from pgqueue.jobs.outcome import (
    AskedCancel,
    AskedFail,
    AskedRetry,
    AskedSnooze,
    Outcome,
    Raised,
    Succeeded,
    UnknownHere,
    Unstarted,
)
from pgqueue.jobs.retry import RetryPolicy
from pgqueue.timing import MAX_DELAY

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WORKER = UUID(int=1)
ERROR = ErrorInfo("shop.Broken", "no stock")
ALL: list[Outcome] = [
    Succeeded("1"), Raised(ERROR), Raised(ERROR, permanent=True), AskedRetry(None, ERROR), AskedRetry(3, ERROR),
    AskedSnooze(3, "later"), AskedFail(ERROR), AskedCancel("sold out"), Unstarted(), UnknownHere(),
]  # fmt: skip


def job(attempt: int = 1, max_attempts: int = 3) -> ClaimedJob:
    """A running job."""
    return ClaimedJob(
        1, "t", "default", 0, "{}", [], "{}", NOW, NOW, attempt, max_attempts, attempt, 0.0, None, None, WORKER
    )


class ByAttempt:
    """A policy whose delay shows which attempt it was asked about."""

    def delay(self, attempt: int) -> float:
        return attempt * 10.0


class Says:
    """A policy of a user, saying whatever it likes."""

    def __init__(self, delay: float) -> None:
        self._delay = delay

    def delay(self, attempt: int) -> float:
        return self._delay


class Unasked:
    """A policy that must not be asked."""

    def delay(self, attempt: int) -> float:
        raise AssertionError("the policy was asked")


def test_success_keeps_the_result() -> None:
    assert decide(job(), Succeeded('{"a": 1}'), Unasked()) == Resolution("succeed", result='{"a": 1}')


def test_success_with_a_result_that_cannot_be_stored_is_still_success() -> None:
    resolution = decide(job(), Succeeded(None, ERROR), Unasked())
    assert (resolution.target, resolution.error) == (JobState.SUCCEEDED, ERROR)


def test_an_error_is_retried_after_what_the_policy_says_of_this_attempt() -> None:
    assert decide(job(attempt=2), Raised(ERROR), ByAttempt()) == Resolution("retry", "error", 20.0, error=ERROR)


def test_an_error_keeps_its_own_reason() -> None:
    assert decide(job(), Raised(ERROR, reason="timeout"), Constant(1)).reason == "timeout"


def test_an_error_in_the_last_attempt_dead_letters_the_job() -> None:
    assert decide(job(attempt=3), Raised(ERROR), Unasked()) == Resolution("dead_letter", "exhausted", error=ERROR)


def test_an_attempt_beyond_the_last_dead_letters_the_job() -> None:
    assert decide(job(attempt=5), Raised(ERROR), Unasked()).target is JobState.FAILED


def test_one_attempt_means_no_retry() -> None:
    assert decide(job(attempt=1, max_attempts=1), Raised(ERROR), Unasked()).verb == "dead_letter"


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_permanent_error_dead_letters_the_job_whatever_attempts_are_left(attempt: int) -> None:
    outcome = Raised(ERROR, permanent=True, reason="invalid arguments")
    assert decide(job(attempt), outcome, Unasked()) == Resolution("dead_letter", "invalid arguments", error=ERROR)


def test_a_retry_asked_for_takes_its_own_delay() -> None:
    assert decide(job(), AskedRetry(7.5, ERROR), Unasked()) == Resolution("retry", "retry", 7.5, error=ERROR)


def test_a_retry_asked_for_without_delay_takes_the_policys() -> None:
    assert decide(job(attempt=2), AskedRetry(None, ERROR), ByAttempt()).delay == 20.0


def test_a_retry_asked_for_with_zero_delay_comes_back_at_once() -> None:
    assert decide(job(), AskedRetry(0.0, ERROR), Unasked()).delay == 0.0


def test_a_retry_asked_for_in_the_last_attempt_dead_letters_the_job() -> None:
    assert decide(job(attempt=3), AskedRetry(1.0, ERROR), Unasked()) == Resolution(
        "dead_letter", "exhausted", error=ERROR
    )


@pytest.mark.parametrize("attempt", [1, 3])
def test_snooze_gives_the_attempt_back_even_the_last(attempt: int) -> None:
    resolution = decide(job(attempt), AskedSnooze(60.0, "not yet"), Unasked())
    assert resolution == Resolution("snooze", "not yet", 60.0, refund=True)
    assert resolution.target is JobState.PENDING


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_fail_dead_letters_the_job_whatever_attempts_are_left(attempt: int) -> None:
    assert decide(job(attempt), AskedFail(ERROR), Unasked()) == Resolution("dead_letter", "rejected", error=ERROR)


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_cancel_cancels_the_job(attempt: int) -> None:
    resolution = decide(job(attempt), AskedCancel("sold out"), Unasked())
    assert resolution == Resolution("withdraw", "sold out")
    assert resolution.target is JobState.CANCELLED


@pytest.mark.parametrize("attempt", [1, 3])
def test_an_unstarted_job_is_given_back_uncharged_and_at_once(attempt: int) -> None:
    resolution = decide(job(attempt), Unstarted(), Unasked())
    assert resolution == Resolution("release", "released", 0.0, refund=True)
    assert resolution.target is JobState.PENDING


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_job_of_an_unknown_task_waits_uncharged(attempt: int) -> None:
    resolution = decide(job(attempt), UnknownHere(), Unasked())
    assert resolution == Resolution("park", "unknown task", refund=True)
    assert resolution.target is JobState.BLOCKED


@pytest.mark.parametrize("outcome", ALL, ids=repr)
@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_every_outcome_moves_a_running_job_by_an_allowed_transition(outcome: Outcome, attempt: int) -> None:
    resolution = decide(job(attempt), outcome, Constant(1))
    assert JobState.RUNNING in TRANSITIONS[resolution.verb].sources
    assert resolution.target is TRANSITIONS[resolution.verb].target


@pytest.mark.parametrize("outcome", ALL, ids=repr)
def test_a_job_that_waits_again_has_an_attempt_left(outcome: Outcome) -> None:
    resolution = decide(job(attempt=3), outcome, Constant(1))
    assert resolution.refund or resolution.target is not JobState.PENDING


@pytest.mark.parametrize(
    ("said", "written"),
    [(math.nan, 0.0), (-1.0, 0.0), (-math.inf, 0.0), (math.inf, MAX_DELAY), (1e300, MAX_DELAY), (MAX_DELAY, MAX_DELAY)],
    ids=str,
)
def test_a_delay_is_brought_into_bounds(said: float, written: float) -> None:
    policies: list[tuple[Outcome, RetryPolicy]] = [
        (Raised(ERROR), Says(said)),
        (AskedRetry(None, ERROR), Says(said)),
        (AskedRetry(said, ERROR), Unasked()),
        (AskedSnooze(said, "later"), Unasked()),
    ]
    assert [decide(job(), outcome, policy).delay for outcome, policy in policies] == [written] * 4


@given(st.floats())
def test_whatever_the_delay_it_is_one_that_postgres_can_add(said: float) -> None:
    for outcome in (Raised(ERROR), AskedSnooze(said, "later"), AskedRetry(said, ERROR)):
        assert 0 <= decide(job(), outcome, Says(said)).delay <= MAX_DELAY


def test_verdicts_take_seconds_or_a_timedelta() -> None:
    assert Retry(delay=timedelta(minutes=1)).delay == Retry(delay=60).delay == 60.0
    assert Snooze(timedelta(minutes=1)).delay == Snooze(60).delay == 60.0
    assert Retry().delay is None


ASKED_FOR = {"redrive", "discard", "restore"}  # by a person, of a dead letter or a cancelled job


def test_terminal_states_are_left_only_when_somebody_asks_for_it() -> None:
    left = {source for verb, move in TRANSITIONS.items() for source in move.sources if verb not in ASKED_FOR}
    assert [state for state in left if state.is_terminal] == []
