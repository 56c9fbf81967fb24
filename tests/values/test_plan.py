"""Plans of schedules: their ticks, also those that passed while no scheduler ran, and what is refused."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgqueue import App, Cron, Every, InvalidPlan
from pgqueue.schedules.in_words import plan_in_words
from pgqueue.schedules.plan import At, Plan, RRule, Span, as_plan, newest_ticks, passed_ticks

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SPRING = datetime(2026, 3, 29, tzinfo=UTC)  # Paris: 02:00 CET becomes 03:00 CEST at 01:00 UTC
AUTUMN = datetime(2026, 10, 25, tzinfo=UTC)  # Paris: 03:00 CEST becomes 02:00 CET at 01:00 UTC


class Counted:
    """A plan that counts how often it is asked, and stops a search that does not end."""

    def __init__(self, plan: Plan, limit: int) -> None:
        self._plan = plan
        self._limit = limit
        self.calls = 0

    def after(self, moment: datetime) -> datetime:
        self.calls += 1
        assert self.calls <= self._limit, f"asked for more than {self._limit} ticks"
        return self._plan.after(moment)


def ticks(plan: Plan, after: datetime, count: int) -> list[str]:
    """The next ticks in UTC, as day and time."""
    said = []
    for _ in range(count):
        after = plan.after(after)
        said.append(after.strftime("%d %H:%M"))
    return said


def naive(plan: Plan, first: datetime, now: datetime) -> Iterator[datetime]:
    """Each tick from `first` to `now`, one after the other."""
    tick = first
    while tick <= now:
        yield tick
        tick = plan.after(tick)


def test_cron_ticks_where_the_expression_matches() -> None:
    assert ticks(Cron("*/20 * * * *"), NOON, 4) == ["01 12:20", "01 12:40", "01 13:00", "01 13:20"]


def test_cron_is_strictly_after_the_moment() -> None:
    assert Cron("0 12 * * *").after(NOON) == NOON + timedelta(days=1)
    assert Cron("0 12 * * *").after(NOON - timedelta(microseconds=1)) == NOON


def test_cron_with_six_fields_starts_with_seconds() -> None:
    assert Cron("*/15 * * * * *").after(NOON) == NOON + timedelta(seconds=15)


@pytest.mark.parametrize(
    ("nickname", "expression"),
    [("@hourly", "0 * * * *"), ("@daily", "0 0 * * *"), ("@midnight", "0 0 * * *"), ("@weekly", "0 0 * * 0"),
     ("@monthly", "0 0 1 * *"), ("@yearly", "0 0 1 1 *"), ("@annually", "0 0 1 1 *")],
)  # fmt: skip
def test_a_nickname_means_its_expression(nickname: str, expression: str) -> None:
    assert Cron(nickname).after(NOON) == Cron(expression).after(NOON)


def test_one_of_several_expressions_ticks_and_together_once() -> None:
    plan = Cron("0 13 * * * | 0 9 * * 2 | 0 13 * * 2", "Europe/Paris")
    assert ticks(plan, NOON, 4) == ["02 07:00", "02 11:00", "03 11:00", "04 11:00"]


def test_expressions_together_tick_where_all_match_at_once() -> None:
    first_monday = Cron("0 9 1-7 * * & 0 9 * * 1")
    assert [ticks(first_monday, NOON, 3), ticks(Cron("0 9 * * 1#1"), NOON, 3)] == [
        ["06 09:00", "03 09:00", "07 09:00"]
    ] * 2
    assert ticks(Cron("0 12 * * * | 0 9 1-7 * * & 0 9 * * 1"), NOON + timedelta(days=33), 3) == [
        "05 12:00", "06 09:00", "06 12:00",
    ]  # fmt: skip
    leap = Cron("0 0 29 2 * & 0 0 * * 1").after(NOON)
    assert (leap.year, leap.month, leap.day, leap.isoweekday()) == (2044, 2, 29, 1)


@pytest.mark.parametrize(
    ("expression", "said"),
    [("0 * * * * & 30 * * * *", "do not tick at one moment"), ("0 9 * * 1 | ", "''"),
     ("0 9 * * 1 & 0 9 31 2 *", "Bad day-of-month"), ("0 9 * * 1 | */90 * * * *", "a step of 90")],
)  # fmt: skip
def test_combined_expressions_that_cannot_tick_are_refused_where_they_are_written(expression: str, said: str) -> None:
    with pytest.raises(InvalidPlan, match=said):
        Cron(expression)


def test_combined_expressions_in_words() -> None:
    assert plan_in_words(Cron("30 7 * * 1-5 | 0 9 1-7 * * & 0 9 * * 1")) == (
        "At 07:30 on Monday through Friday; or at 09:00 on every day of month from 1 through 7, "
        "if also at 09:00 on Monday, UTC"
    )


def test_cron_follows_the_wall_clock_of_its_timezone() -> None:
    assert ticks(Cron("0 9 * * *", "Europe/Paris"), NOON, 1) == ["02 07:00"]
    assert ticks(Cron("0 9 * * *", "America/New_York"), NOON, 1) == ["01 13:00"]


def test_ticks_are_in_utc_whatever_the_timezone() -> None:
    assert Cron("0 9 * * *", "Europe/Paris").after(NOON).tzinfo is UTC
    assert Every(60).after(NOON).tzinfo is UTC


def test_a_time_in_the_spring_gap_ticks_once_when_the_gap_ends() -> None:
    assert ticks(Cron("30 2 * * *", "Europe/Paris"), SPRING - timedelta(hours=2), 2) == ["29 01:00", "30 00:30"]


def test_a_quarter_hourly_cron_runs_through_the_spring_gap() -> None:
    plan = Cron("*/15 * * * *", "Europe/Paris")
    assert ticks(plan, SPRING + timedelta(minutes=30), 4) == ["29 00:45", "29 01:00", "29 01:15", "29 01:30"]


def test_a_time_in_the_autumn_fold_ticks_once() -> None:
    assert ticks(Cron("30 2 * * *", "Europe/Paris"), AUTUMN - timedelta(hours=2), 2) == ["25 00:30", "26 01:30"]


def test_a_half_hourly_cron_runs_through_both_hours_of_the_autumn_fold() -> None:
    plan = Cron("*/30 * * * *", "Europe/Paris")
    assert ticks(plan, AUTUMN, 4) == ["25 00:30", "25 01:00", "25 01:30", "25 02:00"]


@pytest.mark.parametrize("expression", ["30 2 * * *", "*/15 * * * *", "0 3 * * *", "30 1-3 * * *", "59 2 * * 0"])
@pytest.mark.parametrize("night", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_a_tick_is_always_after_the_moment_through_clock_changes(expression: str, night: datetime) -> None:
    plan = Cron(expression, "Europe/Paris")
    moments = [night - timedelta(hours=2) + timedelta(minutes=minute) for minute in range(6 * 60)]
    assert [moment for moment in moments if plan.after(moment) <= moment] == []


def test_every_is_anchored_and_does_not_drift() -> None:
    plan = Every(90)
    assert plan.after(NOON + timedelta(seconds=1)) == plan.after(NOON + timedelta(seconds=89))
    assert int(plan.after(NOON).timestamp()) % 90 == 0


@given(
    st.floats(1, 366 * 86400), st.datetimes(datetime(1960, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
)  # fmt: skip
def test_every_ticks_at_the_first_multiple_after_the_moment(seconds: float, moment: datetime) -> None:
    period = timedelta(seconds=seconds)
    tick = Every(seconds).after(moment)
    assert moment < tick <= moment + period
    assert (tick - datetime(1970, 1, 1, tzinfo=UTC)) % period == timedelta(0)


PLANS = st.one_of(
    st.integers(1, 7200).map(lambda n: Every(float(n))),
    st.sampled_from(
        [Cron("* * * * *"), Cron("*/7 * * * *"), Cron("0 * * * *"), Cron("30 2 * * *", "Europe/Paris"),
         Cron("*/15 9-17 * * 1-5"), Cron("0-20 3 * * *"), Cron("*/10 * * * * *"), Cron("0 0 * * 1#1")]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(plan=PLANS, start=st.integers(0, 400 * 1440), minutes=st.integers(-100, 3 * 1440), at_most=st.integers(1, 40))
def test_the_newest_ticks_are_the_last_of_what_a_naive_walk_finds(
    plan: Plan, start: int, minutes: int, at_most: int
) -> None:
    first = plan.after(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=start))
    now = first + timedelta(minutes=minutes)
    counted = Counted(plan, 5_000)
    walked = list(naive(plan, first, now))
    assert newest_ticks(counted, first, now, at_most) == walked[-at_most:]
    oldest, following = passed_ticks(plan, first, now, at_most)
    assert oldest == walked[:at_most]
    assert following == (walked[at_most] if len(walked) > at_most else first if now < first else plan.after(now))


def test_a_tick_that_is_due_right_now_is_found() -> None:
    assert newest_ticks(Every(60), NOON, NOON, 10) == [NOON]
    assert passed_ticks(Every(60), NOON, NOON, 10) == ([NOON], NOON + timedelta(seconds=60))


def test_nothing_is_due_before_the_first_tick() -> None:
    later = NOON + timedelta(hours=1)
    assert newest_ticks(Every(60), later, NOON, 10) == []
    assert passed_ticks(Every(60), later, NOON, 10) == ([], later)


def test_a_first_tick_that_the_plan_does_not_know_is_kept() -> None:
    odd = NOON + timedelta(seconds=7)
    assert newest_ticks(Cron("0 * * * *"), odd, odd, 10) == [odd]
    assert passed_ticks(Cron("0 * * * *"), odd, odd, 10) == ([odd], NOON + timedelta(hours=1))


def test_years_of_downtime_cost_no_more_than_the_ticks_asked_for() -> None:
    counted = Counted(Cron("* * * * * *"), 2_000)
    found = newest_ticks(counted, NOON - timedelta(days=3650), NOON, 100)
    assert found == [NOON - timedelta(seconds=99 - n) for n in range(100)]


@pytest.mark.parametrize(
    ("expression", "last", "step"),
    [
        ("* 0 1 1 *", datetime(2026, 1, 1, 0, 59, tzinfo=UTC), timedelta(minutes=1)),
        ("*/5 9-17 * * 5", datetime(2026, 5, 29, 17, 55, tzinfo=UTC), timedelta(minutes=5)),
    ],
    ids=["an hour of minutes each year", "each five minutes of fridays"],
)
def test_a_plan_that_ticks_in_bursts_is_searched_in_bounded_work(
    expression: str, last: datetime, step: timedelta
) -> None:
    counted = Counted(Cron(expression), 3_000)
    found = newest_ticks(counted, datetime(2025, 1, 1, 12, tzinfo=UTC), NOON, 5)
    assert found == [last - n * step for n in (4, 3, 2, 1, 0)]


def test_looking_inside_the_autumn_fold_finds_a_next_tick_in_the_future() -> None:
    plan = Cron("30 2 * * *", "Europe/Paris")
    now = AUTUMN + timedelta(hours=1, minutes=10)
    found, following = passed_ticks(plan, AUTUMN + timedelta(minutes=30), now, 10)
    assert found == [AUTUMN + timedelta(minutes=30)]
    assert following is not None
    assert following > now


@pytest.mark.parametrize(
    ("given", "plan"),
    [
        ("*/5 * * * *", Cron("*/5 * * * *", "Europe/Paris")),
        (60, Every(60.0)),
        (1.5, Every(1.5)),
        (timedelta(hours=1), Every(3600.0)),
        (Cron("@daily"), Cron("@daily")),
        (Every(5), Every(5)),
        (NOON, At(NOON, "Europe/Paris")),
    ],
    ids=str,
)
def test_what_is_given_becomes_a_plan(given: Any, plan: Plan) -> None:
    assert as_plan(given, "Europe/Paris") == plan


@pytest.mark.parametrize(
    "expression",
    ["", "x", "* * * *", "* * * * * * *", "61 * * * *", "* 24 * * *", "0 0 30 2 *", "@reboot", "*/0 * * * *", "5"],
)
def test_a_bad_cron_expression_is_refused_by_name_with_its_form(expression: str) -> None:
    with pytest.raises(InvalidPlan) as refused:
        Cron(expression)
    assert repr(expression) in str(refused.value)
    assert "minute hour day-of-month month day-of-week" in str(refused.value)


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("*/90 * * * *", "minute has 60 values"),
        ("0 */25 * * *", "hour has 24"),
        ("0 0 1-9/32 * *", "day-of-month has 31"),
        ("0 0 1 */13 *", "month has 12"),
        ("0 0 * * */8", "day-of-week has 7"),
        ("*/61 * * * * *", "second has 60"),
    ],
)
def test_a_step_beyond_its_field_is_refused_for_it_matches_once(expression: str, values: str) -> None:
    with pytest.raises(InvalidPlan, match=values):
        Cron(expression)


def test_a_cron_expression_that_never_matches_is_refused() -> None:
    with pytest.raises(InvalidPlan, match=r"'0 0 30 2 \*'"):
        Cron("0 0 30 2 *")


@pytest.mark.parametrize("timezone", ["", "Nowhere/Else", "Europe", "../etc/passwd", "/etc/localtime", "UTC\x00"])
def test_an_unknown_timezone_is_refused_with_an_example(timezone: str) -> None:
    with pytest.raises(InvalidPlan, match="give an IANA name such as Europe/Paris"):
        Cron("@daily", timezone)


@pytest.mark.parametrize("wrong", [5, None, timedelta(1)], ids=str)
def test_a_cron_of_something_that_is_no_text_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidPlan):
        Cron(wrong)
    with pytest.raises(InvalidPlan, match="timezone"):
        Cron("@daily", wrong)


@pytest.mark.parametrize(
    "interval",
    [0, -1, 0.5, math.nan, math.inf, 367 * 86400, timedelta(0), timedelta(days=-1), 10**400],
    ids=lambda given: str(given)[:20],
)
def test_an_interval_out_of_bounds_is_refused_with_the_bounds(interval: Any) -> None:
    with pytest.raises(InvalidPlan, match=r"every=.* cannot be used: give 1 to 31622400 seconds \(366 days\)"):
        as_plan(interval)


@pytest.mark.parametrize("wrong", ["5", None, True, timedelta(hours=1)], ids=str)
def test_every_of_something_that_is_no_number_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidPlan):
        Every(wrong)


@pytest.mark.parametrize("wrong", [True, None, [], b"* * * * *", object], ids=str)
def test_what_is_no_plan_is_refused_with_what_is_one(wrong: Any) -> None:
    with pytest.raises(
        InvalidPlan, match="is no plan: give a cron expression, a number of seconds or a timedelta, an aware datetime"
    ):
        as_plan(wrong)


def test_a_bad_timezone_beside_an_interval_is_refused() -> None:
    with pytest.raises(InvalidPlan, match="Nowhere"):
        as_plan(60, "Nowhere")


def test_a_schedule_with_a_bad_plan_is_refused_where_it_is_declared() -> None:
    with pytest.raises(InvalidPlan, match="61"):
        App("unused").schedule("61 * * * *")


def test_an_interval_counts_from_its_anchor() -> None:
    plan = as_plan(timedelta(days=2), start=NOON)
    assert plan.after(NOON) == NOON + timedelta(days=2)
    assert plan.after(NOON - timedelta(seconds=1)) == NOON
    assert as_plan(Every(7), start=NOON) == Every(7, anchor=NOON)
    assert as_plan(Every(7, anchor=NOON), start=NOON + timedelta(1)) == Every(7, anchor=NOON)


def test_a_moment_ticks_once() -> None:
    plan = At(NOON)
    assert plan.after(NOON - timedelta(days=900)) == NOON
    assert plan.after(NOON) is None


def test_a_span_ticks_from_its_start_to_its_end_both_included() -> None:
    span = Span(Cron("0 * * * *"), NOON, NOON + timedelta(hours=2))
    found, following = passed_ticks(span, span.after(NOON - timedelta(days=9)) or NOON, NOON + timedelta(days=9), 10)
    assert (found, following) == ([NOON + timedelta(hours=n) for n in range(3)], None)


def test_a_span_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InvalidPlan, match="is before start"):
        Span(Every(60), NOON, NOON - timedelta(seconds=1))


@pytest.mark.parametrize("wrong", [datetime(2026, 1, 1), "2026-01-01", datetime(9999, 1, 1, tzinfo=UTC), 5], ids=str)
def test_a_moment_that_is_not_aware_or_far_off_is_refused(wrong: Any) -> None:
    for make in (lambda: At(wrong), lambda: Span(Every(60), start=wrong), lambda: Every(60, anchor=wrong)):
        with pytest.raises(InvalidPlan, match="give an aware datetime"):
            make()


def test_an_rrule_ticks_on_the_wall_clock_until_it_ends() -> None:
    plan = RRule("FREQ=MONTHLY;BYDAY=-1FR;COUNT=3", datetime(2026, 1, 1, 9, tzinfo=UTC), "Europe/Paris")
    ticks, tick = [], plan.after(datetime(2025, 1, 1, tzinfo=UTC))
    while tick is not None:
        ticks.append(tick.strftime("%m-%d %H:%M"))
        tick = plan.after(tick)
    assert ticks == ["01-30 09:00", "02-27 09:00", "03-27 09:00"]


def test_an_rrule_keeps_its_time_of_day_through_clock_changes() -> None:
    plan = RRule("FREQ=DAILY", datetime(2026, 1, 1, 1, 30, tzinfo=UTC), "Europe/Paris")  # 02:30 in Paris
    assert plan.after(SPRING - timedelta(hours=12)) == SPRING + timedelta(hours=1)
    assert plan.after(SPRING + timedelta(hours=2)) == SPRING + timedelta(days=1, minutes=30)
    assert plan.after(AUTUMN) == AUTUMN + timedelta(minutes=30)


@pytest.mark.parametrize(
    "rule",
    ["", "FREQ=HOURLY", "FREQ=DAILY;X=1", "FREQ=DAILY;UNTIL=20270101T000000Z", 5, None, "FREQ=DAILY;INTERVAL=0",
     "FREQ=DAILY;INTERVAL=-1", "FREQ=DAILY;INTERVAL=0;INTERVAL=1", "FREQ=DAILY;FREQ=SECONDLY", "FREQ=DAILY;COUNT=0",
     "RRULE:FREQ=DAILY\nEXRULE:FREQ=DAILY", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "FREQ=YEARLY;BYMONTH=0",
     "FREQ=DAILY;BYHOUR=0,1,2,3,4;BYMINUTE=0,1,2,3,4", "FREQ=DAILY" + ";WKST=MO" * 200],
)  # fmt: skip
def test_a_bad_rrule_is_refused_by_name(rule: Any) -> None:
    with pytest.raises(InvalidPlan, match="RRULE"):
        RRule(rule, NOON)
