"""A week of history goes under load, and under a report that reads all of it: how long outcomes take to be written.

The default run is small and proves that nothing deadlocks or is lost; `-m stress` takes two million jobs and bounds the
times. `-s` prints them.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from pgqueue import db
from pgqueue.client.pruning import prune
from pgqueue.client.steps import follow
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, new_job
from tests.statements.test_partitions import today
from tests.statements.test_races import WORKER
from tests.statements.test_retention import add_day

SIZES = [
    pytest.param(1_000, 1.5, None, id="small"),
    pytest.param(286_000, 15.0, 0.2, id="2M", marks=[pytest.mark.stress, pytest.mark.timeout(1200)]),
]
FILL = """
insert into pgqueue.job_finished (id, task, queue, state, args, finished_at, created_at)
select nextval('pgqueue.job_id'), 't', 'q', 'succeeded', '{"order_id": 1}', at, at
from (select %(day)s::timestamptz + n * interval '100 ms' as at from generate_series(1, %(rows)s) as n) as days"""
FILL_MOVES = """
insert into pgqueue.transition (job_id, from_state, to_state, at)
select n, 'running', 'succeeded', %(day)s::timestamptz + n * interval '100 ms' from generate_series(1, %(rows)s) as n"""
WEEK = range(9, 16)


class Load:
    """Threads that enqueue, claim and resolve as fast as they can, and note how long each resolve takes."""

    def __init__(self, dsn: str, threads: int = 2) -> None:
        self._dsn = dsn
        self._stop = threading.Event()
        self.took: list[float] = []
        self._threads = [InThread(self._run) for _ in range(threads)]

    def _run(self) -> int:
        done = 0
        with psycopg.connect(self._dsn, autocommit=True, options="-c enable_seqscan=off") as conn:
            while not self._stop.is_set():
                db.run(conn, QUERIES.jobs.enqueue([new_job(run_at=datetime(2026, 1, 1, tzinfo=UTC))] * 20))
                jobs = db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 20}, 20))
                start = time.perf_counter()
                resolved = db.run(conn, QUERIES.jobs.resolve([(job, PLAIN_SUCCESS) for job in jobs]))
                self.took.append(time.perf_counter() - start)
                assert len(resolved) == len(jobs)
                done += len(jobs)
        return done

    def during(self, phase: str, act: Callable[[], object]) -> float:
        """Run something, and return the 99th percentile of the resolves meanwhile, in seconds."""
        self.took.clear()
        start = time.perf_counter()
        act()
        took = sorted(self.took)
        p99 = took[int(len(took) * 0.99)] if took else 0.0
        worst = f"{1000 * took[-1]:.1f}" if took else "?"
        print(
            f"{phase}: {time.perf_counter() - start:.1f} s, {len(took)} resolves of 20, "
            f"p50 {1000 * took[len(took) // 2]:.1f} ms, p99 {1000 * p99:.1f} ms, longest {worst} ms"
        )
        return p99

    def stop(self) -> int:
        """End the threads; return how many jobs they finished."""
        self._stop.set()
        return sum(thread.result() for thread in self._threads)


def left(conn: Conn) -> list[str]:
    old = "select partition from pgqueue.old_partition order by 1"
    return [row[0] for row in conn.execute(old).fetchall()]


def prune_for(conn: Conn, seconds: float) -> None:
    """Prune every half second, oftener than workers do, or until nothing is left."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and left(conn):
        follow(conn, prune(QUERIES, lambda pruned: None, lambda: True))
        time.sleep(0.5)


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
        times = [load.during("nothing is pruned", lambda: time.sleep(seconds))]
        with psycopg.connect(dsn) as report:
            report.execute("set transaction isolation level repeatable read")
            before = scalar(report, "select count(*) from pgqueue.job_finished")
            assert scalar(report, "select count(*) from pgqueue.transition") >= before
            times.append(load.during("under the report", lambda: prune_for(conn, seconds)))
            assert scalar(report, "select count(*) from pgqueue.job_finished") == before
            assert len(left(conn)) == old
        times.append(load.during("after the report", lambda: prune_for(conn, 300)))
    finally:
        done = load.stop()
    assert left(conn) == []
    assert scalar(conn, "select count(*) from pgqueue.job_finished") == done > 0
    assert scalar(conn, "select deadlocks from pg_stat_database where datname = current_database()") == 0
    if bound is not None:
        assert max(times) < bound
