"""Five schedulers, killed, frozen and cut off by restarts of Postgres: each tick one row, no job twice, none absent.

Ten minutes of it are `pytest -m stress tests/scheduler/test_schedule_soak.py`; the default suite has a bounded run.
"""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App, migrate
from tests.harness import Process, wait_for
from tests.stress.server import OwnServer

SCHEDULERS = 5
SECOND = timedelta(seconds=1)
APP = """
import pgqueue
app = pgqueue.App()
for number, options in enumerate(
    ({}, {"misfire": "all(1000)"}, {"misfire": "skip", "grace": 0.5}, {"jitter": 2}, {"overlap": "queue"},
     {"overlap": "skip"})
):
    app.schedules.declare(f"s{number}", "t", 1 if number % 2 else "* * * * * *", **options)
"""


@pytest.fixture
def server() -> Iterator[OwnServer]:
    server = OwnServer()
    try:
        yield server
    finally:
        server.stop()


class Soak:
    """The schedulers, and the faults that they suffer."""

    def __init__(self, server: OwnServer, directory: Path, seed: int) -> None:
        self._server = server
        self._directory = directory
        self._rng = random.Random(seed)
        self._stack = ExitStack()
        self.dsn = make_conninfo(server.dsn(), dbname="postgres")
        (directory / "ticking.py").write_text(APP)
        self._processes = [self._start() for _ in range(SCHEDULERS)]
        self.done = {"kill": 0, "freeze": 0, "restart": 0}

    def _start(self) -> Process:
        arguments = ("schedule", "-A", "ticking:app", "--poll", "0.2", "--lease", "5")
        return self._stack.enter_context(Process(self._directory, self.dsn, *arguments))

    def ask(self, query: str) -> Any:
        """Return the one value of a query; None while the server does not answer."""
        try:
            with psycopg.connect(self.dsn, autocommit=True, connect_timeout=2) as conn:
                row = conn.execute(query).fetchone()
                return row and row[0]
        except psycopg.Error:
            return None

    def kill(self) -> None:
        slot = self._rng.randrange(SCHEDULERS)
        self._processes[slot].signal(signal.SIGKILL)
        self._processes[slot] = self._start()

    def freeze(self) -> None:
        frozen = self._rng.sample(self._processes, self._rng.choice([1, 3, SCHEDULERS]))
        for process in frozen:
            process.signal(signal.SIGSTOP)
        time.sleep(self._rng.uniform(0.3, 3.0))
        for process in frozen:
            process.signal(signal.SIGCONT)

    def restart(self) -> None:
        asyncio.run(self._server.restart(self._rng.choice(["fast", "immediate"]), self._rng.uniform(0, 1.0)))

    def rage(self, seconds: float) -> None:
        """Cause each fault once, and go on until the time is up; restart dead schedulers as a supervisor would."""
        faults: dict[str, Callable[[], None]] = {"kill": self.kill, "freeze": self.freeze, "restart": self.restart}
        plan, ends = list(faults), time.monotonic() + seconds
        while plan or time.monotonic() < ends:
            name = plan.pop() if plan else self._rng.choice(list(faults))
            faults[name]()
            self.done[name] += 1
            self._processes = [process if process.running else self._start() for process in self._processes]
            so_far = self.ask("select count(*) from pgqueue.schedule_fire") or 0
            wait_for(lambda: (self.ask("select count(*) from pgqueue.schedule_fire") or 0) > so_far, "more ticks")  # noqa: B023

    def end(self) -> None:
        """Stop all in order."""
        for process in self._processes:
            if process.running:
                process.terminate()
        codes = [process.wait() for process in self._processes]
        self._stack.close()
        assert set(codes) <= {0, 69, -signal.SIGTERM}, [process.log()[-2000:] for process in self._processes]


def check(conn: psycopg.Connection[Any]) -> int:
    """Check that each tick has one row, each fired one exactly one job, and no job belongs to another tick."""
    rows = conn.execute("select schedule, tick, outcome, job_id, reason, at from pgqueue.schedule_fire").fetchall()
    jobs = conn.execute("select headers->>'schedule', (headers->>'tick')::timestamptz, id from pgqueue.job").fetchall()
    fired = {(schedule, tick): job for schedule, tick, outcome, job, _, _ in rows if outcome == "fired"}
    assert len(jobs) == len({(schedule, tick) for schedule, tick, _ in jobs}), "a tick became two jobs"
    assert fired == {(schedule, tick): job for schedule, tick, job in jobs}
    assert [row for row in rows if row[2] in ("missed", "skipped") and not row[4]] == [], "no reason"
    assert [row for row in rows if row[5] < row[1]] == [], "recorded before its time"
    following = dict(conn.execute("select name, next_tick from pgqueue.schedule").fetchall())
    assert set(following) == {f"s{number}" for number in range(6)}
    for name, after in following.items():
        ticks: list[datetime] = sorted(row[1] for row in rows if row[0] == name)
        assert [tick for tick, later in pairwise([*ticks, after]) if later - tick != SECOND] == [], f"{name}: absent"
    return len(rows)


def summary(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """Return how many ticks fired, and how many did not, by reason without its numbers."""
    return dict(
        conn.execute(
            "select outcome || coalesce(': ' || regexp_replace(reason, '[0-9.]+', 'N', 'g'), ''), count(*)"
            " from pgqueue.schedule_fire group by 1 order by 2 desc"
        ).fetchall()
    )


def soak(server: OwnServer, directory: Path, seconds: float) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    migrate.upgrade(server.dsn())
    one = Soak(server, directory, seed)
    try:
        wait_for(lambda: one.ask("select count(distinct schedule) = 6 from pgqueue.schedule_fire"), "the first ticks")
        began = time.monotonic()
        one.rage(seconds)
        wait_for(lambda: one.ask("select max(lag_seconds) < 1 from pgqueue.schedule_status"), "to have caught up")
    finally:
        one.end()
    with psycopg.connect(one.dsn) as conn:
        fired = check(conn)
        outcomes = summary(conn)
    faults = ", ".join(f"{count} {name}s" for name, count in one.done.items())
    print(f"faults in {time.monotonic() - began:.0f} s: {faults}; ticks: {fired}; doubles: 0; absent: 0")
    print("\n".join(f"{count:6} {what}" for what, count in outcomes.items()))
    assert fired >= 6 * min(seconds, 5)
    assert outcomes["fired"] > 0


def test_each_tick_is_one_row_and_no_job_comes_twice_bounded(server: OwnServer, tmp_path: Path) -> None:
    soak(server, tmp_path, 7)


@pytest.mark.stress
def test_each_tick_is_one_row_and_no_job_comes_twice_for_ten_minutes(server: OwnServer, tmp_path: Path) -> None:
    soak(server, tmp_path, 600)


def test_the_check_finds_what_it_is_for(app: App, dsn: str) -> None:
    spoils = {
        "a tick became two jobs": "insert into pgqueue.job_live (task, queue, headers)"
        " select task, queue, headers from pgqueue.job_live limit 1",
        "absent": "with gone as (delete from pgqueue.schedule_fire where tick = (select min(tick) + interval '1 second'"
        " from pgqueue.schedule_fire) returning job_id) delete from pgqueue.job_live where id in (select * from gone)",
        "no reason": "update pgqueue.schedule_fire set reason = null",
    }
    fill = """
insert into pgqueue.schedule (name, task, queue, every_seconds, next_tick)
select 's' || i, 't', 'q', 1, '2026-01-01 00:00:05Z' from generate_series(0, 5) i;
with jobs as (insert into pgqueue.job_live (task, queue, headers)
    select 't', 'q', json_build_object('schedule', 's' || i, 'tick', t)
    from generate_series(0, 5) i, generate_series('2026-01-01Z'::timestamptz, '2026-01-01 00:00:03Z', '1 second') t
    returning id, headers)
insert into pgqueue.schedule_fire
select headers->>'schedule', (headers->>'tick')::timestamptz, 'fired', null, id from jobs;
insert into pgqueue.schedule_fire
select 's' || i, '2026-01-01 00:00:04Z', 'missed', 'why' from generate_series(0, 5) i"""
    with psycopg.connect(dsn) as conn:
        conn.execute(fill)
        assert check(conn) == 30
        for message, spoil in spoils.items():
            conn.execute("savepoint whole")
            conn.execute(spoil.encode())
            with pytest.raises(AssertionError, match=message):
                check(conn)
            conn.execute("rollback to whole")
