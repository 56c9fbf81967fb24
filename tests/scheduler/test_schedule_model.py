"""Random plans, edits, pauses and downtimes against a simple oracle: the same ticks, the same outcomes, a job each.

The test decides the time: its connections, and the functions of the schema, find its own `clock_timestamp()` before
that of Postgres.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from pgqueue import App, Cron, Every, db
from pgqueue.db.link import Link
from pgqueue.scheduler import SchedulerSettings, Ticker
from pgqueue.schedules.plan import Plan
from pgqueue.schedules.schedule import most_fires
from tests.conftest import Databases

START = datetime(2026, 10, 25, 0, 10, tzinfo=UTC)  # the night in which clocks go back in Paris
CLOCK = """
create schema fake;
create table fake.time (now timestamptz);
insert into fake.time values (now());
create function fake.clock_timestamp() returns timestamptz language sql as 'select now from fake.time';
create function fake.statement_timestamp() returns timestamptz language sql as 'select now from fake.time';
do $$ declare f regprocedure; begin
    for f in select oid from pg_proc where pronamespace = 'pgqueue'::regnamespace loop
        execute format('alter function %s set search_path = fake, pg_catalog', f);
    end loop;
end $$"""


@pytest.fixture(scope="module")
def stage(server_dsn: str, template: str) -> Iterator["Stage"]:
    databases = Databases(server_dsn)
    dsn = databases.make(template)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(CLOCK)
    stage = Stage(make_conninfo(dsn, options="-c search_path=fake,pg_catalog"))
    yield stage
    stage.close()
    databases.drop_all()


class Stage:
    """The system under test: an app, a scheduler that looks when the test says so, and the time."""

    def __init__(self, dsn: str) -> None:
        self.app = App(dsn)
        self.conn = psycopg.connect(dsn, autocommit=True)
        self._loop = asyncio.new_event_loop()
        self._link = Link(db.Database(dsn), "pgqueue scheduler")
        self._ticker = Ticker(self.app, self._link, SchedulerSettings())

    def close(self) -> None:
        self._loop.run_until_complete(self._link.close())
        self._loop.close()
        self.conn.close()
        self.app.close()

    def empty(self) -> None:
        for table in ("schedule", "schedule_fire", "job_live", "transition"):
            self.conn.execute(f"delete from pgqueue.{table}")

    def at(self, now: datetime) -> None:
        self.conn.execute("update fake.time set now = %s", (now,))

    def look(self) -> None:
        while self._loop.run_until_complete(self._ticker.fire()):
            pass


@dataclass
class Oracle:
    """The expected outcome of each tick, minute by minute of its plan."""

    plan: Plan
    policy: str
    grace: float | None
    now: datetime
    outcomes: dict[datetime, str] = field(default_factory=dict)
    counted: datetime = START
    paused: datetime | None = None
    gap: tuple[datetime, datetime] | None = None
    catch_up: str = "skip"

    def passed(self) -> list[datetime]:
        found, tick = [], self.plan.after(self.counted)
        while tick is not None and tick <= self.now:
            found.append(tick)
            tick = self.plan.after(tick)
        return found

    def in_gap(self, tick: datetime) -> bool:
        return self.gap is not None and self.gap[0] < tick <= self.gap[1]

    def look(self) -> None:
        if self.paused is not None:
            return
        ticks = self.passed()
        since = self.gap[0] if self.gap else self.now
        before = [t for t in ticks if not self.in_gap(t) and t <= since]
        within = [t for t in ticks if self.in_gap(t)]
        after = [t for t in ticks if not self.in_gap(t) and t > since]
        for group in (before, after):
            for nth, tick in enumerate(reversed(group)):
                late = (self.now - tick).total_seconds()
                grace = 60 if self.grace is None and self.policy == "skip" else self.grace
                fires = nth < most_fires(self.policy) and (grace is None or late <= grace)
                self.outcomes[tick] = "fired" if fires else "missed"
        for nth, tick in enumerate(reversed(within)):
            fires = self.catch_up != "skip" and nth < most_fires(self.catch_up)
            self.outcomes[tick] = "fired" if fires else "skipped"
        self.counted, self.gap = self.now, None

    def pause(self) -> None:
        self.paused = self.paused or self.now

    def resume(self, catch_up: str) -> None:
        if self.paused is None:
            return
        # Two pauses are one as long as no scheduler has got past the first.
        untold = self.gap and any(tick <= self.gap[1] for tick in self.passed())
        self.gap = (self.gap[0] if self.gap and untold else self.paused, self.now)
        self.paused, self.catch_up = None, catch_up

    def edit(self, plan: Plan) -> None:
        if plan == self.plan:
            return
        for tick in self.passed():
            paused = self.in_gap(tick) or (self.paused is not None and tick > self.paused)
            self.outcomes[tick] = "skipped" if paused else "missed"
        self.plan, self.counted, self.gap = plan, self.now, None
        self.paused = self.paused and self.now


PLANS = st.sampled_from(
    [Every(60), Every(90), Every(420), Cron("*/5 * * * *"), Cron("30 2 * * *", "Europe/Paris"),
     Cron("*/20 * * * *", "Europe/Paris"), Cron("10,40 1-3 * * *", "Europe/Paris"), Cron("7 * * * *")]
)  # fmt: skip
POLICIES = st.sampled_from(["once", "skip", "all(2)", "all(50)"])
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 5000)),
    st.tuples(st.just("look"), st.none()),
    st.tuples(st.just("look"), st.none()),
    st.tuples(st.just("pause"), st.none()),
    st.tuples(st.just("resume"), POLICIES),
    st.tuples(st.just("edit"), PLANS),
    st.tuples(st.just("touch"), st.none()),
)


def play(stage: Stage, oracle: Oracle, step: str, given: Any) -> None:
    """Do one step on both."""
    schedules = stage.app.schedules
    match step:
        case "wait":
            oracle.now += timedelta(seconds=given)
            stage.at(oracle.now)
        case "look":
            stage.look()
            oracle.look()
        case "pause":
            schedules.pause("s")
            oracle.pause()
        case "resume":
            schedules.resume("s", catch_up=given)
            oracle.resume(given)
        case "edit":
            schedules.edit("s", given)
            oracle.edit(given)
        case "touch":
            schedules.edit("s", priority=3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=PLANS, policy=POLICIES, grace=st.none() | st.integers(0, 600), steps=st.lists(STEPS, min_size=3, max_size=14)
)  # fmt: skip
def test_each_tick_becomes_what_the_oracle_says(
    stage: Stage, plan: Plan, policy: str, grace: int | None, steps: list[tuple[str, Any]]
) -> None:
    stage.empty()
    stage.at(START)
    stage.app.schedules.create("s", "t", plan, misfire=policy, grace=grace)
    oracle = Oracle(plan, policy, grace, START)
    for step, given_ in [*steps, ("wait", 3700), ("resume", "skip"), ("look", None)]:
        play(stage, oracle, step, given_)
    rows = dict(stage.conn.execute("select tick, outcome from pgqueue.schedule_fire").fetchall())
    assert rows == oracle.outcomes
    jobs = stage.conn.execute("select (headers->>'tick')::timestamptz from pgqueue.job").fetchall()
    assert sorted(tick for (tick,) in jobs) == sorted(tick for tick, what in oracle.outcomes.items() if what == "fired")
    ((following,),) = stage.conn.execute("select next_tick from pgqueue.schedule").fetchall()
    assert following == oracle.plan.after(oracle.now)
