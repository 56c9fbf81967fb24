"""Retry policies: how long to wait after which attempt, and which settings are refused."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue import Constant, Delays, Exponential, InvalidOption, RetryPolicy
from pgqueue.jobs.retry import as_policy
from pgqueue.timing import MAX_DELAY

ATTEMPTS = st.integers(1, 1_000_000)
DELAYS = st.floats(0, MAX_DELAY)
FACTORS = st.floats(1, 1e6)


def longest(low: float, high: float) -> float:
    """A dice that always throws the most."""
    return high


def shortest(low: float, high: float) -> float:
    """A dice that always throws the least."""
    return low


def test_exponential_without_jitter_doubles_until_it_reaches_max() -> None:
    policy = Exponential(base=2, factor=2, max=20, jitter=False)
    assert [policy.delay(attempt) for attempt in range(1, 7)] == [2, 4, 8, 16, 20, 20]


def test_a_factor_of_one_keeps_the_delay() -> None:
    policy = Exponential(base=7, factor=1, max=20, jitter=False)
    assert [policy.delay(attempt) for attempt in (1, 2, 1000)] == [7, 7, 7]


def test_full_jitter_draws_from_zero_to_the_exact_delay() -> None:
    assert Exponential(base=3, factor=2, max=100, uniform=shortest).delay(3) == 0
    assert Exponential(base=3, factor=2, max=100, uniform=longest).delay(3) == 12


def test_a_jitter_share_spreads_the_delay_up_and_down() -> None:
    assert Exponential(base=10, factor=1, jitter=0.2, uniform=shortest).delay(1) == pytest.approx(8)
    assert Exponential(base=10, factor=1, jitter=0.2, uniform=longest).delay(1) == pytest.approx(12)


def test_jitter_true_is_full_jitter_and_jitter_one_is_a_share() -> None:
    assert Exponential(base=10, jitter=True, uniform=longest).delay(1) == 10
    assert Exponential(base=10, jitter=1.0, uniform=longest).delay(1) == 20


def test_a_jitter_share_never_exceeds_max() -> None:
    assert Exponential(base=100, max=100, jitter=0.5, uniform=longest).delay(5) <= 100


def test_a_base_of_zero_means_no_delay_after_any_attempt() -> None:
    policy = Exponential(base=0, factor=2.0, max=3600, jitter=False)
    assert {policy.delay(attempt) for attempt in (1, 2, 1024, 5000)} == {0}


def test_the_real_dice_throws_different_delays() -> None:
    policy = Exponential(base=1000, jitter=True)
    assert len({policy.delay(1) for _ in range(20)}) > 1


@given(base=DELAYS, factor=FACTORS, most=DELAYS, attempt=ATTEMPTS)
def test_exponential_with_full_jitter_stays_between_zero_and_max(
    base: float, factor: float, most: float, attempt: int
) -> None:
    assert 0 <= Exponential(base=base, factor=factor, max=most).delay(attempt) <= most


@given(base=DELAYS, factor=FACTORS, most=DELAYS, jitter=st.floats(0, 1), attempt=ATTEMPTS)
def test_exponential_with_a_share_stays_between_zero_and_max(
    base: float, factor: float, most: float, jitter: float, attempt: int
) -> None:
    assert 0 <= Exponential(base=base, factor=factor, max=most, jitter=jitter).delay(attempt) <= most


@given(base=st.floats(0.001, 1000), factor=st.floats(1, 10), share=st.floats(0, 1), attempt=st.integers(1, 6))
def test_a_jitter_share_stays_within_its_bounds_below_max(
    base: float, factor: float, share: float, attempt: int
) -> None:
    exact = base * factor ** (attempt - 1)
    delay = Exponential(base=base, factor=factor, max=MAX_DELAY, jitter=share).delay(attempt)
    assert exact * (1 - share) - 1e-6 * exact <= delay <= exact * (1 + share) + 1e-6 * exact


@given(base=st.floats(0.001, MAX_DELAY), factor=FACTORS, most=DELAYS, attempt=ATTEMPTS)
def test_exponential_without_jitter_never_gets_shorter(base: float, factor: float, most: float, attempt: int) -> None:
    policy = Exponential(base=base, factor=factor, max=most, jitter=False)
    assert policy.delay(attempt) <= policy.delay(attempt + 1)


@pytest.mark.parametrize("attempt", [1024, 10_000, 1_000_000])
def test_a_huge_attempt_does_not_overflow(attempt: int) -> None:
    assert Exponential(base=2.0, factor=2.0, max=3600, jitter=False).delay(attempt) == 3600
    assert Exponential(base=2, factor=2, max=3600, jitter=False).delay(attempt) == 3600


def test_constant_waits_the_same_each_time() -> None:
    assert [Constant(5).delay(attempt) for attempt in (1, 2, 1_000_000)] == [5, 5, 5]


def test_delays_are_taken_in_order_and_the_last_repeats() -> None:
    policy = Delays((1, 10, 60))
    assert [policy.delay(attempt) for attempt in (1, 2, 3, 4, 1_000_000)] == [1, 10, 60, 60, 60]


@given(st.lists(DELAYS, min_size=1), ATTEMPTS)
def test_delays_only_ever_says_what_is_in_its_list(listed: list[float], attempt: int) -> None:
    assert Delays(tuple(listed)).delay(attempt) in listed


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        (30, Constant(30.0)),
        (0, Constant(0.0)),
        (0.5, Constant(0.5)),
        (timedelta(minutes=2), Constant(120.0)),
        ([1, 2.5, timedelta(seconds=60)], Delays((1.0, 2.5, 60.0))),
        ((5,), Delays((5.0,))),
        (Constant(3), Constant(3)),
    ],
)
def test_an_option_becomes_a_policy(given: Any, policy: RetryPolicy) -> None:
    assert as_policy(given) == policy


def test_a_policy_of_the_users_own_is_taken_as_it_is() -> None:
    class Fibonacci:
        def delay(self, attempt: int) -> float:
            return float(attempt)

    policy = Fibonacci()
    assert as_policy(policy) is policy


@pytest.mark.parametrize(
    "option",
    [None, True, "30", "soon", {"base": 2}, -1, math.nan, math.inf, timedelta(days=-1), MAX_DELAY * 2, 10**400],
    ids=lambda option: str(option)[:20],
)
def test_an_option_that_is_no_policy_is_refused(option: Any) -> None:
    with pytest.raises(InvalidOption, match="cannot be used: give"):
        as_policy(option)


@pytest.mark.parametrize("option", [[], [-1], [1, math.nan], [1, math.inf], ["soon"], [None]], ids=str)
def test_a_list_with_a_bad_delay_is_refused(option: Any) -> None:
    with pytest.raises(InvalidOption, match=r"retr.* cannot be used: give"):
        as_policy(option)


def test_a_policy_class_without_its_parentheses_is_refused() -> None:
    with pytest.raises(InvalidOption, match="Exponential"):
        as_policy(Exponential)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["base", "max", "factor"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, MAX_DELAY * 2, "2", None], ids=str)
def test_exponential_refuses_a_bad_number_and_names_it(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=f"retry {name}="):
        Exponential(**{name: value})


def test_exponential_refuses_a_shrinking_factor() -> None:
    with pytest.raises(InvalidOption, match=r"retry factor=0.5 cannot be used: give 1 to"):
        Exponential(factor=0.5)


@pytest.mark.parametrize("jitter", [-0.1, 1.1, 2, math.nan, "yes"], ids=str)
def test_exponential_refuses_a_jitter_that_is_no_share(jitter: Any) -> None:
    with pytest.raises(InvalidOption, match=r"jitter=.* give True, False or a share"):
        Exponential(jitter=jitter)


def test_no_delays_at_all_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(InvalidOption, match="max_attempts=1 for no retries"):
        Delays(())
