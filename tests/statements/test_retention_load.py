"""A week of history goes under load, and under a report that reads all of it: how long outcomes take to be written.

The default run is small and proves that nothing deadlocks, waits or is lost; `-m stress` takes two million jobs, bounds
the times, and lets the report stay open for ten minutes, beside one pg_dump after another where there is a pg_dump.
`-s` prints the times.
"""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from pgqueue import db
from pgqueue.client.pruning import prune
from pgqueue.client.steps import follow
from pgqueue.db.database import PLANNING
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, new_job
from tests.statements.test_partitions import today
from tests.statements.test_races import WORKER
from tests.statements.test_retention import add_day

SIZES = [
    pytest.param(1_000, 1.5, None, id="small"),
    pytest.param(286_000, 600.0, 0.2, id="2M", marks=[pytest.mark.stress, pytest.mark.timeout(2400)]),
]
BASE_SECONDS = 15.0  # for which the load runs alone, at most
# A statement that waits longer than this for any lock fails, and with it the test.
LOAD_OPTIONS = f"{PLANNING} -c lock_timeout=100ms"
FILL = """
insert into pgqueue.job_finished (id, task, queue, state, args, finished_at, created_at)
select nextval('pgqueue.job_id'), 't', 'q', 'succeeded', '{"order_id": 1}', at, at
from (select %(day)s::timestamptz + n * interval '100 ms' as at from generate_series(1, %(rows)s) as n) as days"""
FILL_MOVES = """
insert into pgqueue.transition (job_id, from_state, to_state, at)
select n, 'running', 'succeeded', %(day)s::timestamptz + n * interval '100 ms' from generate_series(1, %(rows)s) as n"""
WEEK = range(9, 16)


class Load:
    """Threads that enqueue, claim and resolve as fast as they can, and one that enqueues single jobs; all are timed."""

    def __init__(self, dsn: str, threads: int = 2) -> None:
        self._dsn = dsn
        self._stop = threading.Event()
        self.resolves: list[float] = []
        self.inserts: list[float] = []
        self._threads = [InThread(self._run) for _ in range(threads)]
        self._inserting = InThread(self._insert)

    def _run(self) -> int:
        done = 0
        with psycopg.connect(self._dsn, autocommit=True, options=LOAD_OPTIONS) as conn:
            while not self._stop.is_set():
                db.run(conn, QUERIES.jobs.enqueue([new_job(run_at=datetime(2026, 1, 1, tzinfo=UTC))] * 20))
                jobs = db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 20}, 20))
                start = time.perf_counter()
                resolved = db.run(conn, QUERIES.jobs.resolve([(job, PLAIN_SUCCESS) for job in jobs]))
                self.resolves.append(time.perf_counter() - start)
                assert len(resolved) == len(jobs)
                done += len(jobs)
        return done

    def _insert(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True, options=LOAD_OPTIONS) as conn:
            while not self._stop.is_set():
                start = time.perf_counter()
                db.run(conn, QUERIES.jobs.enqueue_one(new_job(queue="single")))
                self.inserts.append(time.perf_counter() - start)
                self._stop.wait(0.005)

    def during(self, phase: str, act: Callable[[], object]) -> float:
        """Run something, and return the 99th percentile of the resolves meanwhile, in seconds."""
        self.resolves.clear()
        self.inserts.clear()
        start = time.perf_counter()
        act()
        print(f"{phase}: {time.perf_counter() - start:.1f} s")
        print(f"  resolves of 20 jobs: {described(self.resolves)}\n  single inserts: {described(self.inserts)}")
        return percentile(self.resolves, 99)

    def stop(self) -> int:
        """End the threads; return how many jobs they finished."""
        self._stop.set()
        self._inserting.result()
        return sum(thread.result() for thread in self._threads)


def percentile(took: list[float], percent: int) -> float:
    return sorted(took)[len(took) * percent // 100] if took else 0.0


def described(took: list[float]) -> str:
    p50, p99, longest = (
        1000 * seconds for seconds in (percentile(took, 50), percentile(took, 99), max(took, default=0))
    )
    return f"{len(took)}, p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.1f} ms"


def left(conn: Conn) -> list[str]:
    old = "select partition from pgqueue.old_partition order by 1"
    return [row[0] for row in conn.execute(old).fetchall()]


def prune_for(conn: Conn, seconds: float) -> None:
    """Prune every half second, oftener than workers do, or until nothing is left."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and left(conn):
        follow(conn, prune(QUERIES, lambda pruned: None, lambda: True))
        time.sleep(0.5)


class Dumps:
    """One pg_dump after another, beside what the test does; none where there is no pg_dump of the server's version."""

    def __init__(self, dsn: str, conn: Conn) -> None:
        self._stop = threading.Event()
        self._dump = [found, "--no-sync", "--file=/dev/null", dsn] if (found := pg_dump_for(conn)) else None
        self._thread = InThread(self._run)

    def _run(self) -> int:
        done = 0
        while self._dump and not self._stop.is_set():
            subprocess.run(self._dump, check=True, capture_output=True, timeout=600)
            done += 1
        return done

    def stop(self) -> int:
        """End after the current one; return how many were made."""
        self._stop.set()
        return int(self._thread.result())


def pg_dump_for(conn: Conn) -> str | None:
    """Return the pg_dump of the server's major version, if there is one on the PATH."""
    found = shutil.which("pg_dump")
    if found is None:
        return None
    printed = subprocess.run([found, "--version"], check=True, capture_output=True, text=True).stdout
    return found if f" {conn.info.server_version // 10_000}." in printed else None


@pytest.mark.parametrize(("rows", "seconds", "bound"), SIZES)
def test_a_week_goes_under_load_and_under_a_report(
    dsn: str, conn: Conn, rows: int, seconds: float, bound: float | None
) -> None:
    for days in WEEK:
        add_day(conn, days)
        for fill in (FILL, FILL_MOVES):
            conn.execute(fill.encode(), {"day": today(conn) - timedelta(days=days), "rows": rows})
    old = len(left(conn))
    assert old == 2 * len(WEEK)
    size = scalar(conn, "select sum(bytes) from pgqueue.old_partition")
    print(f"\n{rows * len(WEEK)} jobs, {size / 1024 / 1024:.0f} MB in {old} partitions")
    load = Load(dsn)
    try:
        times = [load.during("nothing is pruned", lambda: time.sleep(min(seconds, BASE_SECONDS)))]
        dumps = Dumps(dsn, conn)
        with psycopg.connect(dsn) as report:
            report.execute("set transaction isolation level repeatable read")
            before = scalar(report, "select count(*) from pgqueue.job_finished")
            assert scalar(report, "select count(*) from pgqueue.transition") >= before
            times.append(load.during("under the report", lambda: prune_for(conn, seconds)))
            assert scalar(report, "select count(*) from pgqueue.job_finished") == before
            assert len(left(conn)) == old
        print(f"  {dumps.stop()} dumps beside it")
        times.append(load.during("after the report", lambda: prune_for(conn, 300)))
    finally:
        done = load.stop()
    assert left(conn) == []
    assert scalar(conn, "select count(*) from pgqueue.job_finished") == done > 0
    assert scalar(conn, "select deadlocks from pg_stat_database where datname = current_database()") == 0
    if bound is not None:
        assert max(times) < bound
