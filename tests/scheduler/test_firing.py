"""Firing by real processes: in time, in bulk, beside a worker that is blocked, whatever their clocks say."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import App
from tests.conftest import scalar
from tests.harness import Process, wait_for
from tests.scheduler.ticking import run_scheduler

Conn = psycopg.Connection[Any]
FIRED = "select count(*) from pgqueue.schedule_fire where outcome = 'fired'"
ODD = """
import pgqueue, time
app = pgqueue.App()

@app.task(name="ticked")
async def ticked() -> None: ...

@app.task(name="blocks")
async def blocks() -> None:
    time.sleep(5)  # the event loop of its worker stands still

app.schedules.declare("second", "ticked", 1)
"""
# In a process that finds this on its path every clock of Python that tells the time of day is an hour off.
SKEWED = """
import datetime, os, time
real, off = datetime.datetime, float(os.environ["CLOCK_OFF"])

class Meta(type):
    def __instancecheck__(cls, one): return isinstance(one, real)
    def __subclasscheck__(cls, one): return issubclass(one, real)

class datetime_(real, metaclass=Meta):
    @classmethod
    def now(cls, tz=None): return real.now(tz) + datetime.timedelta(seconds=off)

datetime.datetime, clock = datetime_, time.time
time.time = lambda: clock() + off
open(f"skewed-{os.getpid()}", "x").close()
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "odd.py").write_text(ODD)
    return tmp_path


def lags(conn: Conn, schedule: str = "second") -> list[float]:
    """Return how late each tick was fired, in seconds."""
    query = "select extract(epoch from at - tick)::float8 from pgqueue.schedule_fire where schedule = %s order by tick"
    return [row[0] for row in conn.execute(query, (schedule,)).fetchall()]


def test_an_idle_scheduler_fires_within_a_tenth_of_a_second(app: App, conn: Conn) -> None:
    """The next poll is far away: the scheduler wakes by a timer, at the moment of the tick."""
    app.schedules.create("second", "t", 1)
    run_scheduler(app, lambda: scalar(conn, FIRED) >= 4, poll_seconds=30)
    found = lags(conn)
    assert min(found) >= 0
    assert sorted(found)[len(found) // 2] < 0.1


def test_ten_thousand_schedules_that_are_due_at_once_fire_within_a_minute(app: App, conn: Conn) -> None:
    app.schedules.create("one", "t", "*/5 * * * *", timezone="Europe/Paris")
    due = scalar(conn, "select date_bin('5 minutes', now(), '2000-01-01 00:00+00')")  # one tick, whatever the minute
    columns = "task, cron, timezone, queue, misfire"
    conn.execute(
        f"insert into pgqueue.schedule (name, next_tick, {columns})"
        f" select 's' || i, %s, {columns} from pgqueue.schedule, generate_series(1, 10000) i",
        (due,),
    )
    run_scheduler(app, lambda: scalar(conn, "select min(next_tick) > %s from pgqueue.schedule", due))
    apart = "select count(distinct headers->>'schedule') from pgqueue.job where headers->>'schedule' <> 'one'"
    assert scalar(conn, apart) == 10_000
    took = "select extract(epoch from max(at) - min(at))::float8 from pgqueue.schedule_fire"
    assert scalar(conn, took) < 60


def test_a_blocked_worker_delays_no_tick_of_its_scheduler(shop: Path, dsn: str, conn: Conn) -> None:
    with Process(shop, dsn, "work", "-A", "odd:app", "--with-scheduler", "--lease", "3") as worker:
        worker.alive_until(lambda: scalar(conn, FIRED) >= 1, "a tick")
        App(dsn).using().enqueue("blocks")
        running = "select claimed_at from pgqueue.job_live where task = 'blocks' and state = 'running'"
        worker.alive_until(lambda: scalar(conn, running), "the block")
        since = scalar(conn, running)
        worker.alive_until(lambda: scalar(conn, f"{FIRED} and tick > %s", since) >= 2, "ticks in the block")
        assert scalar(conn, running) == since
        assert scalar(conn, "select count(*) from pgqueue.worker") == 2
        worker.kill()


def test_a_worker_with_a_scheduler_stops_both(shop: Path, dsn: str, conn: Conn) -> None:
    with Process(shop, dsn, "work", "-A", "odd:app", "--with-scheduler") as worker:
        worker.alive_until(lambda: scalar(conn, FIRED) >= 1, "a tick")
        worker.terminate()
        assert worker.wait() == 0, worker.log()
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0
    assert scalar(conn, "select count(*) from pgqueue.schedule_release") == 0


def test_schedulers_whose_clocks_are_an_hour_off_change_nothing(
    shop: Path, dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop / "sitecustomize.py").write_text(SKEWED)
    processes = []
    try:
        for off in ("3600", "-3600"):
            monkeypatch.setenv("CLOCK_OFF", off)
            processes.append(Process(shop, dsn, "schedule", "-A", "odd:app"))
        wait_for(lambda: scalar(conn, "select count(*) = 2 from pgqueue.worker"), "both")
        so_far = scalar(conn, FIRED)
        wait_for(lambda: scalar(conn, FIRED) >= so_far + 3, "ticks")
        assert all(process.running for process in processes), processes[0].log()
    finally:
        for process in processes:
            process.kill()
    assert {file.name for file in shop.glob("skewed-*")} == {f"skewed-{process.pid}" for process in processes}
    assert "fired ticked" in processes[0].log() + processes[1].log()
    found = lags(conn)
    assert 0 <= min(found) <= max(found) < 60
    gaps = "select count(*) - 1 - extract(epoch from max(tick) - min(tick)) from pgqueue.schedule_fire"
    assert scalar(conn, gaps) == 0
    jobs = "select count(*), count(distinct headers->>'tick') from pgqueue.job"
    assert conn.execute(jobs).fetchone() == (scalar(conn, FIRED),) * 2
