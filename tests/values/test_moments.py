"""Moments as people write them: the command line and the dashboard read them alike."""

from datetime import UTC, datetime, timedelta

import pytest

from pgqueue import InvalidOption
from pgqueue.client.moments import read_moment, read_time
from pgqueue.dashboard.filters import dead_filter, job_filter


@pytest.mark.parametrize(("text", "ago"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604800), ("1w", 604800)])
def test_an_age_counts_from_now(text: str, ago: int) -> None:
    before = datetime.now(UTC)
    moment = read_moment("--since", text)
    assert moment is not None
    assert before <= moment + timedelta(seconds=ago) <= datetime.now(UTC)


def test_a_time_has_its_zone() -> None:
    assert read_moment("--since", None) is None
    assert read_moment("--since", "2026-05-01T12:00+02:00") == datetime(2026, 5, 1, 10, tzinfo=UTC)
    assert read_time("--run-at", "2026-05-01T12:00Z") == datetime(2026, 5, 1, 12, tzinfo=UTC)


WRONG = {
    "yesterday": "give an age such as 2h, or a time with its zone",
    "2026-05-01T12:00": "give an age such as 2h, or a time with its zone",
    "2.5h": "give an age such as 2h, or a time with its zone",
    "٣h": "give an age such as 2h, or a time with its zone",
    "999999999w": "that is before the first year",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_moment_is_refused_in_the_same_words_wherever_it_is_written(text: str) -> None:
    with pytest.raises(InvalidOption, match=WRONG[text]) as of_commands:
        read_moment("since", text)
    for of_pages in (job_filter, dead_filter):
        with pytest.raises(InvalidOption) as raised:
            of_pages({"since": text}.get)
        assert str(raised.value) == str(of_commands.value)
