"""The calendar of schedules: what fires within a day, drawn and listed, however many ticks there are."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgqueue.dashboard import calendar
from pgqueue.dashboard.calendar import calendar_of
from pgqueue.jobs.job import NewJob
from pgqueue.queries.schedules.stored import StoredSchedule, UnreadableSchedule
from pgqueue.schedules.plan import as_plan
from pgqueue.schedules.schedule import Schedule
from pgqueue.schedules.ticks import ScheduleState

NOON = datetime(2026, 3, 4, 12, 3, 7, tzinfo=UTC)


def stored(name: str, plan: Any, now: datetime = NOON, **state: Any) -> StoredSchedule:
    schedule = Schedule(name, as_plan(plan), NewJob("t", "{}", "q", 0, 1))
    return StoredSchedule(ScheduleState(schedule, now, None, **state), {}, "{}")


def test_each_tick_of_a_day_has_its_mark_and_the_next_ones_are_listed() -> None:
    found = calendar_of([stored("two hours", "30 */2 * * *"), stored("nightly", "15 3 * * *")])
    assert len(found.lines["two hours"].marks) == 12
    (mark,) = found.lines["nightly"].marks
    assert mark.words == "Thu 03:15 UTC"
    assert mark.x == pytest.approx(238 * (15 + 11 / 60) / 24, abs=1)
    assert [(entry.tick.hour, entry.schedule) for entry in found.entries[:2]] == [(12, "two hours"), (14, "two hours")]
    assert [entry.tick for entry in found.entries] == sorted(entry.tick for entry in found.entries)
    assert len(found.entries) == 13
    assert found.entries[0].task == "t"


def test_a_tick_that_passes_is_gone_at_once_though_ticks_are_kept() -> None:
    early = calendar_of([stored("s", "0,5 12 * * *")])
    later = calendar_of([stored("s", "0,5 12 * * *", NOON + timedelta(minutes=3))])
    assert [entry.tick.minute for entry in early.entries] == [5, 0]
    assert [entry.tick.minute for entry in later.entries] == [0, 5]
    assert later.entries[0].tick.day == early.entries[1].tick.day == 5


def test_a_schedule_that_ticks_often_is_one_bar_and_no_entry() -> None:
    found = calendar_of([stored("each minute", "* * * * *"), stored("each second", 1), stored("half hours", 1800)])
    assert found.lines["each minute"].busy
    assert found.lines["each second"].busy
    assert (found.lines["half hours"].busy, len(found.lines["half hours"].marks)) == (False, 48)
    assert found.entries == []
    assert found.often == ["each minute", "each second", "half hours"]


def test_what_does_not_tick_has_no_line() -> None:
    found = calendar_of(
        [
            stored("paused", 60, paused_at=NOON),
            stored("disabled", 60, disabled=True),
            stored("over", datetime(2020, 1, 1, tzinfo=UTC)),
            UnreadableSchedule("broken", "no plan"),
        ]
    )
    assert (found.lines, found.entries, found.often, found.whole) == ({}, [], [], True)


def test_too_many_ticks_are_not_all_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar, "MOST_OF_ALL", 100)
    found = calendar_of([stored(f"s {number}", 1800) for number in range(9)])
    assert list(found.lines) == ["s 0", "s 1", "s 2"]
    assert found.whole is False


def test_what_takes_too_long_is_left_out_until_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred recurrences that began in 1990 took more than a second of each look."""
    passed = 0.0
    after = calendar.Span.after

    def slow(span: Any, moment: datetime) -> datetime | None:
        nonlocal passed
        passed += 0.15
        return after(span, moment)

    monkeypatch.setattr(calendar.Span, "after", slow)
    schedules = [stored(f"s{number}", f"{number} 4 * * *") for number in range(3, 7)]
    first = calendar_of(schedules, lambda: passed)
    assert list(first.lines) == ["s3"]
    assert not first.whole
    assert passed < 0.5
    assert list(calendar_of(schedules, lambda: passed).lines) == ["s3", "s4"]
    calendar_of(schedules, lambda: passed)
    found = calendar_of(schedules, lambda: passed)
    assert list(found.lines) == ["s3", "s4", "s5", "s6"]
    assert found.whole
