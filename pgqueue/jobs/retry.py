"""Retry policies: values whose delays are pure functions of the attempt that failed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Protocol, TypeAlias, runtime_checkable

from pgqueue.errors import InvalidOption
from pgqueue.timing import MAX_DELAY, RETRY_DELAY, check_duration, seconds


@runtime_checkable
class RetryPolicy(Protocol):
    """Decides how long to wait after an attempt has failed."""

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after `attempt`, counted from 1, has failed."""
        ...


@dataclass(frozen=True, slots=True)
class Exponential:
    """Wait `base * factor ** (attempt - 1)` seconds, at most `max`.

    `jitter=True` picks a uniformly random time between 0 and that ("full jitter", as in Amazon's article
    "Exponential Backoff And Jitter", 2015), so that jobs that failed together do not come back together. A number such
    as 0.2 spreads the delay by that share up or down; False leaves it exact.
    """

    base: float = 2.0
    factor: float = 2.0
    max: float = 3600.0
    jitter: bool | float = True
    uniform: Callable[[float, float], float] = random.uniform

    def __post_init__(self) -> None:
        check_duration("retry base", self.base, RETRY_DELAY)
        check_duration("retry max", self.max, RETRY_DELAY)
        if (
            isinstance(self.factor, bool)
            or not isinstance(self.factor, (int, float))
            or not 1 <= self.factor <= MAX_DELAY
        ):
            raise InvalidOption(f"retry factor={self.factor!r} cannot be used: give 1 to {MAX_DELAY:.0f}")
        if not isinstance(self.jitter, (bool, int, float)) or not 0 <= self.jitter <= 1:
            raise InvalidOption(f"retry jitter={self.jitter!r} cannot be used: give True, False or a share up to 1")

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after `attempt` failed."""
        try:
            exact = min(self.base * float(self.factor) ** (attempt - 1), self.max)
        except OverflowError:
            exact = self.max if self.base else 0.0
        if self.jitter is True:
            return self.uniform(0.0, exact)
        return min(exact * self.uniform(1 - self.jitter, 1 + self.jitter), self.max) if self.jitter else exact


@dataclass(frozen=True, slots=True)
class Constant:
    """Wait the same number of seconds each time."""

    seconds: float

    def __post_init__(self) -> None:
        check_duration("retry delay", self.seconds, RETRY_DELAY)

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after any attempt."""
        return self.seconds


@dataclass(frozen=True, slots=True)
class Delays:
    """Wait as long as a list says: its first entry after the first failure; the last one repeats."""

    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds:
            raise InvalidOption("an empty list of retry delays cannot be used: give max_attempts=1 for no retries")
        for delay in self.seconds:
            check_duration("retry delay", delay, RETRY_DELAY)

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after `attempt` failed."""
        return self.seconds[min(attempt, len(self.seconds)) - 1]


def policy_in_words(policy: RetryPolicy) -> str:
    """Return a policy with its settings, if it is one of ours; the name of its class, if not."""
    name = type(policy).__qualname__
    if not isinstance(policy, (Exponential, Constant, Delays)):
        return name
    given = (f"{each.name}={getattr(policy, each.name)!r}" for each in fields(policy) if each.name != "uniform")
    return f"{name}({', '.join(given)})"


RetryOption: TypeAlias = RetryPolicy | Sequence[float | timedelta] | float | timedelta


def as_policy(option: RetryOption) -> RetryPolicy:
    """Return the policy that `retry=` means: a policy, a list of delays, or one delay, in seconds or timedelta."""
    if isinstance(option, RetryPolicy) and not isinstance(option, type):
        return option
    try:
        if isinstance(option, (list, tuple)):
            return Delays(tuple(seconds(delay) for delay in option))
        if isinstance(option, (int, float, timedelta)):
            return Constant(seconds(option))
    except InvalidOption as error:
        raise InvalidOption(f"retry={option!r:.200}: {error}") from error
    raise InvalidOption(
        f"retry={option!r} cannot be used: give Exponential(…), Constant(…), a list such as [10, 60, 300] or a number"
    )
