"""An attempt's error as an outcome: several errors at once, as a TaskGroup raises them, count as the gravest."""

from typing import Any

import pytest

from pgqueue import App, Cancel, Fail, Retry, Snooze, TimedOut
from pgqueue.jobs.outcome import AskedCancel, AskedFail, AskedRetry, AskedSnooze, Raised
from pgqueue.tasks.spec import TaskSpec
from pgqueue.worker.running.calling import outcome_of_error


def spec(**options: Any) -> TaskSpec:
    app = App("unused")

    @app.task(name="t", **options)
    async def t() -> None: ...

    return app.tasks["t"]


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("unhandled errors in a TaskGroup", errors)


LISTED, UNLISTED, NEVER = ConnectionError("a"), KeyError("b"), FileNotFoundError("c")
OPTIONS: dict[str, Any] = {"retry_on": ConnectionError, "no_retry_on": FileNotFoundError}
IN_ORDER = [
    (Cancel("d"), AskedCancel), (Fail("e"), AskedFail), (NEVER, "not retried"), (Retry("f", delay=3), AskedRetry),
    (LISTED, "error"), (UNLISTED, "not retried"),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(IN_ORDER)))
def test_the_gravest_of_several_errors_decides(at: int) -> None:
    rest = [error for error, _ in IN_ORDER[at:]]
    for errors in (group(*rest), group(*reversed(rest)), group(group(*rest[1:] or rest), rest[0])):
        outcome = outcome_of_error(spec(**OPTIONS), errors)
        expected = IN_ORDER[at][1]
        if isinstance(expected, str):
            assert isinstance(outcome, Raised)
            assert (outcome.reason, outcome.permanent) == (expected, expected != "error")
            assert outcome.error.type == "ExceptionGroup"
        else:
            assert isinstance(outcome, expected)


def test_a_group_without_verdicts_is_retried_as_any_error_is() -> None:
    assert outcome_of_error(spec(), group(UNLISTED)) == outcome_of_error(spec(), group(UNLISTED))
    assert not outcome_of_error(spec(), group(UNLISTED)).permanent  # type: ignore[union-attr]
    assert outcome_of_error(spec(no_retry_on=ExceptionGroup), group(UNLISTED)).permanent  # type: ignore[union-attr]


def test_snooze_counts_where_nothing_failed_beside_it() -> None:
    assert isinstance(outcome_of_error(spec(), group(Snooze(5), Snooze(6))), AskedSnooze)
    assert isinstance(outcome_of_error(spec(), group(Snooze(5), UNLISTED)), Raised)


def test_a_timeout_in_a_group_is_one() -> None:
    outcome = outcome_of_error(spec(retry_on=ConnectionError), group(TimedOut("late")))
    assert isinstance(outcome, Raised)
    assert (outcome.reason, outcome.permanent) == ("timeout", False)
