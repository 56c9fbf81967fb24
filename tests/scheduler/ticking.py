"""Schedules in tests: declare, make due, fire as a scheduler does, and read the outcome of each tick."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from pgqueue import App, db
from pgqueue.db.link import Link
from pgqueue.scheduler import Scheduler, SchedulerSettings, Ticker
from pgqueue.schedules.plan import Every, Plan
from pgqueue.schedules.schedule import Schedule
from tests.conftest import eventually, scalar
from tests.harness import QUERIES, Conn, new_job


def now(conn: Conn) -> datetime:
    value: datetime = scalar(conn, "select clock_timestamp()")
    return value


def declare(conn: Conn, name: str, plan: Plan, tick: datetime, task: str = "t", **other: Any) -> None:
    schedule = Schedule(name, plan, new_job(task, **other))
    db.run(conn, QUERIES.schedules.declare([(schedule, tick)]))


def fire(app: App, dsn: str) -> int:
    """Fire the due ticks once, as the scheduler does."""

    async def once() -> int:
        link = Link(db.Database(dsn), "pgqueue scheduler")
        try:
            return await Ticker(app, link, SchedulerSettings()).fire()
        finally:
            await link.close()

    return asyncio.run(once())


def run_scheduler(app: App, until: Any, poll_seconds: float = 0.1) -> None:
    async def scenario() -> None:
        scheduler = Scheduler(app, SchedulerSettings(poll_seconds=poll_seconds))
        running = asyncio.create_task(scheduler.run())
        try:
            await eventually(lambda: running.done() or until(), "what the scheduler should reach")
        finally:
            scheduler.stop()
            await running

    asyncio.run(scenario())


def ticks(conn: Conn, schedule: str = "s") -> list[tuple[Any, ...]]:
    query = "select tick, outcome, job_id is not null from pgqueue.schedule_fire where schedule = %s order by tick"
    return conn.execute(query, (schedule,)).fetchall()


def next_tick(conn: Conn, schedule: str = "s") -> datetime:
    value: datetime = scalar(conn, "select next_tick from pgqueue.schedule where name = %s", schedule)
    return value


# Hourly ticks that lie half an hour from where the tests begin: at the end of an hour none becomes due in a test.
_TICK = (datetime.now(UTC) - timedelta(minutes=30)).replace(second=0, microsecond=0)
HOURLY = Every(3600, anchor=_TICK)
HOURLY_CRON = f"{_TICK.minute} * * * *"


def last_hour(conn: Conn) -> datetime:
    """Return the newest tick of HOURLY and of HOURLY_CRON."""
    return HOURLY.after(now(conn) - timedelta(hours=1))


def outcomes(conn: Conn, schedule: str = "s") -> list[str]:
    return [outcome for _, outcome, _ in ticks(conn, schedule)]


def due(conn: Conn, hours: int = 0) -> datetime:
    """Make the schedule s due: its next tick is the newest of HOURLY, or some hours before."""
    tick = last_hour(conn) - timedelta(hours=hours)
    conn.execute("update pgqueue.schedule set next_tick = %s", (tick,))
    return tick
