"""What becomes of ticks: the decision alone, policy by policy, against a table."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgqueue import Every, InvalidOption
from pgqueue.schedules.schedule import Schedule, changed
from pgqueue.schedules.ticks import MOST_QUEUED, ScheduleState, TickDecision, TickRecord, decide_ticks, settle_ticks
from tests.harness import new_job

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def schedule(**options: Any) -> Schedule:
    return Schedule("s", Every(60), new_job(), **options)


def seen(options: dict[str, Any], *, passed: int, late: float = 0.0, chunk: int = 1000, **state: Any) -> TickDecision:
    """Decide `late` seconds after the newest of `passed` ticks, a minute apart, of which none was decided before."""
    first = NOON - (passed - 1) * MINUTE
    return decide_ticks(ScheduleState(schedule(**options), NOON + timedelta(seconds=late), first, **state), [], chunk)


def minutes(ticks: list[TickRecord], outcome: str | None = None) -> list[int]:
    """Which minutes before noon they are."""
    return [int((NOON - tick.tick) / MINUTE) for tick in ticks if outcome in (None, tick.outcome)]


@pytest.mark.parametrize(
    ("options", "passed", "late", "fired", "missed"),
    [
        ({}, 1, 0, [0], []),
        ({}, 1, 59, [0], []),
        ({}, 4, 0, [0], [3, 2, 1]),
        ({"misfire": "once"}, 4, 59, [0], [3, 2, 1]),
        ({"misfire": "once", "grace": 30}, 4, 30, [0], [3, 2, 1]),
        ({"misfire": "once", "grace": 30}, 4, 31, [], [3, 2, 1, 0]),
        ({"misfire": "skip"}, 4, 59, [0], [3, 2, 1]),
        ({"misfire": "skip", "grace": 10}, 4, 11, [], [3, 2, 1, 0]),
        ({"misfire": "all(2)"}, 4, 0, [1, 0], [3, 2]),
        ({"misfire": "all"}, 4, 0, [3, 2, 1, 0], []),
        ({"misfire": "all(5)"}, 4, 0, [3, 2, 1, 0], []),
        ({"misfire": "all(9)", "grace": 90}, 4, 0, [1, 0], [3, 2]),
    ],
)
def test_misfires(options: dict[str, Any], passed: int, late: float, fired: list[int], missed: list[int]) -> None:
    decision = seen(options, passed=passed, late=late)
    assert (minutes(decision.fires), minutes(decision.unfired, "missed")) == (fired, missed)
    assert decision.state.next_tick == NOON + MINUTE
    assert all(tick.reason for tick in decision.unfired)


def test_a_tick_that_is_skipped_by_policy_says_how_late_it_was_seen() -> None:
    (missed,) = seen({"misfire": "skip", "grace": 10}, passed=1, late=50).unfired
    assert missed.reason == "no scheduler looked until 50.0 s later, later than its grace"


@pytest.mark.parametrize("policy", ["once", "all(3)"])
def test_a_backlog_is_decided_in_parts_and_only_its_newest_fire(policy: str) -> None:
    state = ScheduleState(schedule(misfire=policy), NOON, NOON - 99 * MINUTE)
    fired: list[int] = []
    records: list[int] = []
    while state.next_tick is not None and state.next_tick <= NOON:
        decision = decide_ticks(state, [], 10)
        fired, records = fired + minutes(decision.fires), records + minutes(decision.unfired)
    assert fired == ([0] if policy == "once" else [2, 1, 0])
    assert sorted(records + fired) == list(range(100))


@pytest.mark.parametrize(
    ("overlap", "live", "passed", "fired", "other", "cancelled"),
    [
        ({"overlap": "skip"}, [], 1, [0], [], []),
        ({"overlap": "skip"}, [7], 1, [], ["skipped"], []),
        ({"overlap": "skip", "max_running": 2}, [7], 1, [0], [], []),
        ({"overlap": "skip", "misfire": "all"}, [], 3, [2], ["skipped", "skipped"], []),
        ({"overlap": "queue"}, [], 1, [0], [], []),
        ({"overlap": "queue"}, [7], 1, [], ["queued"], []),
        ({"overlap": "queue", "misfire": "all"}, [], 3, [2], ["queued", "queued"], []),
        ({"overlap": "cancel_running"}, [], 1, [0], [], []),
        ({"overlap": "cancel_running"}, [7], 1, [0], [], [7]),
        ({"overlap": "cancel_running", "max_running": 2}, [6, 7], 1, [0], [], [6]),
        ({"overlap": "cancel_running", "misfire": "all"}, [7], 3, [0], ["skipped", "skipped"], [7]),
    ],
)
def test_overlaps(
    overlap: dict[str, Any], live: list[int], passed: int, fired: list[int], other: list[str], cancelled: list[int]
) -> None:
    decision = seen(overlap, passed=passed, live_jobs=live)
    assert minutes(decision.fires) == fired
    assert [tick.outcome for tick in decision.unfired] == other
    assert decision.cancels == cancelled


def queued(*names: str | None) -> list[TickRecord]:
    return [TickRecord("s", NOON - MINUTE * (9 - n), "queued", by=by) for n, by in enumerate(names)]


def test_ticks_that_wait_go_before_new_ones_and_only_as_many_as_there_is_room_for() -> None:
    state = ScheduleState(schedule(overlap="queue", max_running=2), NOON, NOON, live_jobs=[1])
    decision = decide_ticks(state, queued(None, None), 1000)
    assert (minutes(decision.dequeued), minutes(decision.fires), minutes(decision.unfired, "queued")) == ([9], [], [0])
    assert decision.queued == 2


def test_a_tick_that_was_asked_for_fires_whatever_the_schedule_does() -> None:
    for state in (
        ScheduleState(schedule(overlap="queue"), NOON, NOON + MINUTE, live_jobs=[1]),
        ScheduleState(schedule(), NOON, NOON - MINUTE, paused_at=NOON),
        ScheduleState(schedule(), NOON, NOON - MINUTE, disabled=True),
        ScheduleState(schedule(), NOON, None),
    ):
        decision = decide_ticks(state, queued("me"), 1000)
        assert (minutes(decision.dequeued), decision.fires, decision.unfired) == ([9], [], [])


def test_no_more_than_so_many_ticks_wait() -> None:
    state = ScheduleState(schedule(overlap="queue"), NOON, NOON, live_jobs=[1])
    decision = decide_ticks(state, queued(*[None] * MOST_QUEUED), 1000)
    assert [tick.outcome for tick in decision.unfired] == ["skipped"]


@pytest.mark.parametrize(
    ("catch_up", "fired"), [("skip", []), ("once", [3]), ("all(2)", [4, 3])]
)  # fmt: skip
def test_the_ticks_of_a_pause_follow_the_policy_chosen_for_them(catch_up: str, fired: list[int]) -> None:
    """Paused from 7.5 to 2.5 minutes ago; no scheduler looked before it, nor since."""
    gap = {"gap_from": NOON - 7.5 * MINUTE, "gap_to": NOON - 2.5 * MINUTE, "gap_by": "ann", "resume_with": catch_up}
    state = ScheduleState(schedule(), NOON, NOON - 9 * MINUTE, **gap)
    looks = [decide_ticks(state, [], 1000) for _ in range(3)]
    assert [minutes(one.fires) for one in looks] == [[8], fired, [0]]
    assert minutes(looks[0].unfired, "missed") == [9]
    assert minutes(looks[1].unfired, "skipped") == [n for n in (7, 6, 5, 4, 3) if n not in fired]
    assert {tick.reason for tick in looks[1].unfired} == {"paused by ann"}
    assert minutes(looks[2].unfired, "missed") == [2, 1]
    assert state.gap_from is None


def test_a_pause_ends_by_itself_at_its_time() -> None:
    state = ScheduleState(
        schedule(), NOON, NOON - 9 * MINUTE, paused_at=NOON - 9.5 * MINUTE, paused_until=NOON - 4.5 * MINUTE,
        paused_by="ann",
    )  # fmt: skip
    state.refresh()
    looks = [decide_ticks(state, [], 1000) for _ in range(2)]
    assert minutes(looks[0].unfired, "skipped") == [9, 8, 7, 6, 5]
    assert minutes(looks[1].fires) == [0]
    assert state.paused_at is None


def test_ticks_of_a_plan_that_is_replaced_are_told() -> None:
    records = settle_ticks(ScheduleState(schedule(), NOON, NOON - 2 * MINUTE), NOON, "edited")
    assert [(tick.outcome, tick.reason) for tick in records] == [("missed", "edited")] * 3
    paused = ScheduleState(schedule(), NOON, NOON - 2 * MINUTE, paused_at=NOON - 1.5 * MINUTE, paused_by="ann")
    assert [tick.outcome for tick in settle_ticks(paused, NOON, "edited")] == ["missed", "skipped", "skipped"]


def test_of_very_many_the_first_says_since_when_there_were_others() -> None:
    records = settle_ticks(ScheduleState(schedule(), NOON, NOON - 9 * MINUTE), NOON, "edited", most=3)
    assert minutes(records) == [2, 1, 0]
    assert records[0].reason == f"edited; all since {(NOON - 9 * MINUTE).isoformat()} as well"


def test_jitter_depends_on_name_and_tick_alone_and_stays_below_its_bound() -> None:
    one = schedule(jitter=30)
    runs = [one.job_of(NOON + n * MINUTE).run_at for n in range(50)]
    waits = [run - (NOON + n * MINUTE) for n, run in enumerate(runs) if run is not None]
    assert len(set(waits)) == 50
    assert all(timedelta(0) <= wait <= timedelta(seconds=30) for wait in waits)
    assert runs == [schedule(jitter=30).job_of(NOON + n * MINUTE).run_at for n in range(50)]
    assert schedule().job_of(NOON).run_at is None


def test_expiry_is_counted_from_the_tick_or_ends_with_the_next() -> None:
    assert schedule(expires=20).expires_at(NOON) == NOON + timedelta(seconds=20)
    assert schedule(expires="next").expires_at(NOON) == NOON + MINUTE
    assert schedule().expires_at(NOON) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"misfire": "never"}, {"misfire": "all(0)"}, {"misfire": "all(1001)"}, {"misfire": None}, {"grace": -1},
        {"grace": "x"}, {"jitter": -1}, {"jitter": 86401}, {"expires": -1}, {"expires": "soon"}, {"overlap": "no"},
        {"overlap": "skip", "max_running": 0}, {"overlap": "skip", "max_running": True}, {"max_running": 2},
    ],
    ids=str,
)  # fmt: skip
def test_an_option_out_of_its_bounds_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=list(wrong)[-1]):
        schedule(**wrong)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"jitter": 5.0, "expires": "next", "misfire": "all(3)", "grace": 9.0},
        {"overlap": "queue", "max_running": 2},
        {"start": NOON, "end": NOON + MINUTE, "expires": 5.0},
    ],
    ids=str,
)  # fmt: skip
def test_a_schedule_comes_back_from_its_row(options: dict[str, Any]) -> None:
    one = schedule(**options)
    assert Schedule.of("s", one.columns(), one.job.args) == one


def test_a_new_plan_takes_the_place_of_the_old_one() -> None:
    row = schedule(overlap="skip").columns() | {"name": "s"}
    assert changed(row, "{}", {"cron": "@daily"}).plan.after(NOON) == NOON + timedelta(hours=12)
    assert changed(row, "{}", {"overlap": "allow"}).max_running is None
    assert changed(row, "{}", {"args": {"a": 1}}).job.args == '{"a": 1}'
