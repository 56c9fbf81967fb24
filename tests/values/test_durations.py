"""Durations that are refused: the message names the option, the value and the bounds, whichever option it is."""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pgqueue import App, Constant, Every, Exponential, InvalidInput, Unique
from pgqueue.scheduler.settings import SchedulerSettings
from pgqueue.timing import Bounds, check_duration, check_optional_duration, seconds
from pgqueue.worker.settings import WorkerSettings

TEN_YEARS = "315360000 seconds (3650 days)"
APP = App("unused")

# An option that takes a duration, how it is given, and the bounds that its refusal names.
OPTIONS: list[tuple[str, Callable[[Any], object], str]] = [
    ("delay", lambda given: APP.using(delay=given), f"0 to {TEN_YEARS}, or a timedelta"),
    ("timeout", lambda given: APP.task(timeout=given), f"0.001 to {TEN_YEARS}, or a timedelta"),
    ("soft_timeout", lambda given: APP.task(soft_timeout=given), f"0.001 to {TEN_YEARS}, or a timedelta"),
    ("result_ttl", lambda given: APP.task(result_ttl=given), f"0.001 to {TEN_YEARS}, or a timedelta"),
    ("idempotency_window", lambda given: APP.using(idempotency_key="k", idempotency_window=given),
     f"0.001 to {TEN_YEARS}, or a timedelta"),
    ("window", lambda given: Unique(window=given), f"0.001 to {TEN_YEARS}, or a timedelta"),
    ("expires", lambda given: APP.using(expires=given), f"0.001 to {TEN_YEARS}, or a timedelta"),
    ("retry base", lambda given: Exponential(base=given), f"0 to {TEN_YEARS}"),
    ("retry max", lambda given: Exponential(max=given), f"0 to {TEN_YEARS}"),
    ("retry delay", Constant, f"0 to {TEN_YEARS}"),
    ("every", Every, "1 to 31622400 seconds (366 days)"),
    ("lease_seconds", lambda given: WorkerSettings(lease_seconds=given), "0.1 to 86400 seconds"),
    ("poll_seconds", lambda given: SchedulerSettings(poll_seconds=given), "0.01 to 86400 seconds"),
    ("shutdown_timeout", lambda given: WorkerSettings(shutdown_timeout=given), "0 to 86400 seconds"),
]  # fmt: skip
NEVER = [-1, math.nan, math.inf, 1e12, 10**400, "soon", True, timedelta(days=-1)]


@pytest.mark.parametrize("given", NEVER, ids=lambda given: str(given)[:20])
@pytest.mark.parametrize(("option", "use", "bounds"), OPTIONS, ids=[row[0] for row in OPTIONS])
def test_a_refusal_names_the_option_the_value_and_the_bounds(
    option: str, use: Callable[[Any], object], bounds: str, given: Any
) -> None:
    with pytest.raises(InvalidInput) as refused:
        use(given)
    assert str(refused.value) == f"{option}={given!r:.100} cannot be used: give {bounds}"


@pytest.mark.parametrize("use", [use for _, use, bounds in OPTIONS if "timedelta" not in bounds])
def test_settings_that_are_numbers_refuse_a_timedelta(use: Callable[[Any], object]) -> None:
    with pytest.raises(InvalidInput, match="cannot be used: give"):
        use(timedelta(seconds=5))


def test_a_duration_comes_back_in_seconds_and_both_bounds_are_included() -> None:
    bounds = Bounds(1, 60)
    assert [check_duration("o", given, bounds) for given in (1, 60, 2.5, timedelta(minutes=1))] == [1, 60, 2.5, 60]
    assert check_optional_duration("o", None, bounds) is None
    assert check_optional_duration("o", 7, bounds) == seconds(7) == 7.0
