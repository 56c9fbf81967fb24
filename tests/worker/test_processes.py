"""Real processes, real signals: no job is lost, no process stays behind, each tick fires once."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import App
from tests.conftest import scalar
from tests.harness import Process, wait_for

Conn = psycopg.Connection[Any]

SHOP = '''
import os, threading, time
import psycopg, pgqueue

app = pgqueue.App()
local = threading.local()
QUICK = "-c synchronous_commit=off"


@app.task(name="effect")
def effect(n: int) -> None:
    if not hasattr(local, "conn"):
        local.conn = psycopg.connect(os.environ["PGQUEUE_DSN"], autocommit=True, options=QUICK)
    local.conn.execute("insert into public.effect values (%s, %s)", (n, os.getpid()))


@app.task(name="hold", max_attempts=2)
def hold() -> None:
    """Runs until a row lets it go."""
    effect.spec.function(0)
    while not local.conn.execute("select from public.gate").fetchall():
        time.sleep(0.02)
'''
TICKING = (
    SHOP
    + """

@app.schedule(1, args={"n": 1}, name="second")
@app.task(name="ticked")
def ticked(n: int) -> None: ...
"""
)


@pytest.fixture
def shop(tmp_path: Path, dsn: str, conn: Conn) -> Iterator["Shop"]:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "ticking.py").write_text(TICKING)
    conn.execute("create table public.effect (n int, pid int)")
    conn.execute("create table public.gate ()")
    with ExitStack() as stack:
        yield Shop(tmp_path, dsn, conn, stack)


class Shop:
    """A directory with an app, its database, and processes that end with the test."""

    def __init__(self, directory: Path, dsn: str, conn: Conn, stack: ExitStack) -> None:
        self._directory = directory
        self._dsn = dsn
        self._conn = conn
        self._stack = stack

    def start(self, *arguments: str) -> Process:
        return self._stack.enter_context(Process(self._directory, self._dsn, *arguments))

    def worker(self, *arguments: str, lease: float = 30) -> Process:
        return self.start("work", "-A", "shop:app", "--lease", str(lease), "--poll", "0.2", *arguments)

    def scheduler(self) -> Process:
        return self.start("schedule", "-A", "ticking:app", "--poll", "0.2")

    def count(self, query: str) -> int:
        return int(scalar(self._conn, f"select count(*) from {query}"))

    def running(self, process: Process) -> bool:
        """Whether a job runs in that process, and has written its effect."""
        return self.count(f"public.effect where pid = {process.pid}") > 0

    def open_gate(self) -> None:
        self._conn.execute("insert into public.gate default values")


def test_a_worker_that_gets_sigterm_finishes_its_job_and_exits_with_zero(shop: Shop, app: App, conn: Conn) -> None:
    job, left = app.enqueue("hold"), app.enqueue("hold")
    worker = shop.worker("-c", "1")
    worker.alive_until(lambda: shop.running(worker), "the job runs")
    worker.terminate()
    worker.alive_until(lambda: shop.count("pgqueue.worker where stopping"), "the worker says that it stops")
    shop.open_gate()
    assert worker.wait() == 0, worker.log()
    assert [app.get(j.id).state for j in (job, left)] == ["succeeded", "pending"]
    assert shop.count("pgqueue.worker") == 0


def test_a_worker_serves_the_queues_it_was_told_to(shop: Shop, app: App) -> None:
    jobs = {queue: app.using(queue=queue).enqueue("effect", {"n": 1}) for queue in ("a", "b", "default")}
    worker = shop.worker("-Q", "a,b", "--limit", "b=1")
    worker.alive_until(lambda: shop.count("pgqueue.job_finished") == 2, "both jobs have run")
    assert app.get(jobs["default"].id).state == "pending"


def test_a_job_whose_worker_was_killed_runs_again_on_another(shop: Shop, app: App) -> None:
    job = app.enqueue("hold")
    first = shop.worker(lease=1)
    first.alive_until(lambda: shop.running(first), "the job runs")
    second = shop.worker(lease=1)
    first.kill()
    second.alive_until(lambda: shop.running(second), "the job runs again")
    shop.open_gate()
    second.alive_until(lambda: app.get(job.id).state == "succeeded", "the job has succeeded")
    done = app.get(job.id)
    assert done.crash_count == 1
    assert [(a.number, a.state, a.reason) for a in done.attempts] == [(1, "pending", "rescued"), (2, "succeeded", None)]
    assert done.attempts[0].worker_id != done.attempts[1].worker_id
    assert shop.count(f"pgqueue.attempt where job_id = {job.id}") == 2


def test_a_job_whose_last_attempt_was_killed_is_a_dead_letter_that_crashed(shop: Shop, app: App) -> None:
    job = app.using(max_attempts=1).enqueue("hold")
    first = shop.worker(lease=1)
    first.alive_until(lambda: shop.running(first), "the job runs")
    first.kill()
    second = shop.worker(lease=1)
    second.alive_until(lambda: shop.count("pgqueue.dead_letter"), "the job is a dead letter")
    dead = app.get(job.id)
    assert (dead.state, dead.reason, dead.crash_count, dead.attempt) == ("failed", "crashed", 1, 1)
    assert dead.error is not None
    assert dead.error.type == "pgqueue.WorkerLost"


@pytest.fixture
def effects(shop: Shop, conn: Conn) -> int:
    """Enqueue 10,000 jobs of which each writes a row."""
    count = 10_000
    conn.execute(
        "insert into pgqueue.job_live (task, queue, args)"
        " select 'effect', 'default', jsonb_build_object('n', n) from generate_series(1, %s) as n",
        (count,),
    )
    return count


def test_two_processes_run_each_of_ten_thousand_jobs_exactly_once(shop: Shop, effects: int) -> None:
    workers = [shop.worker(), shop.worker()]
    wait_for(lambda: shop.count("pgqueue.job_finished") == effects, "all jobs have run")
    for worker in workers:
        worker.terminate()
    assert [worker.wait() for worker in workers] == [0, 0]
    assert shop.count("public.effect") == effects
    assert shop.count("(select distinct n from public.effect) as e") == effects
    assert shop.count("(select distinct pid from public.effect) as e") == 2
    assert shop.count("pgqueue.transition where to_state = 'succeeded'") == effects


def test_no_job_is_lost_when_a_process_is_killed_and_replaced(shop: Shop, effects: int) -> None:
    victim, _ = shop.worker(lease=1), shop.worker(lease=1)
    victim.alive_until(lambda: shop.count(f"public.effect where pid = {victim.pid}") > 500, "the victim works")
    victim.kill()
    shop.worker(lease=1)
    wait_for(lambda: shop.count("pgqueue.job_finished where state = 'succeeded'") == effects, "all jobs have run")
    assert shop.count("pgqueue.job") == effects
    assert shop.count("(select distinct n from public.effect) as e") == effects
    again = shop.count("pgqueue.job_finished where crash_count > 0")
    assert shop.count("public.effect") - effects <= again


def fired(shop: Shop) -> int:
    return shop.count("pgqueue.schedule_fire where outcome = 'fired'")


def check_each_second_has_one_tick_and_one_job(conn: Conn) -> None:
    """Check that no tick between the first and the last is missing, and that each that fired has one job."""
    gaps = "select count(distinct tick) - 1 - extract(epoch from max(tick) - min(tick)) from pgqueue.schedule_fire"
    assert scalar(conn, gaps) == 0
    jobs = "select count(*) from pgqueue.job where headers->>'schedule' = 'second'"
    distinct = "select count(distinct headers->>'tick') from pgqueue.job"
    ticks = scalar(conn, "select count(*) from pgqueue.schedule_fire where outcome = 'fired'")
    assert scalar(conn, jobs) == scalar(conn, distinct) == ticks


def test_two_schedulers_fire_each_tick_once_also_when_one_is_killed(shop: Shop, conn: Conn) -> None:
    schedulers = [shop.scheduler(), shop.scheduler()]
    schedulers[0].alive_until(lambda: fired(shop) >= 3, "three ticks")
    schedulers[0].kill()
    so_far = fired(shop)
    schedulers[1].alive_until(lambda: fired(shop) >= so_far + 2, "two more ticks")
    schedulers[1].terminate()
    assert schedulers[1].wait() == 0, schedulers[1].log()
    check_each_second_has_one_tick_and_one_job(conn)


def test_ticks_that_no_scheduler_was_there_for_are_rows_too(shop: Shop, conn: Conn) -> None:
    first = shop.scheduler()
    first.alive_until(lambda: fired(shop) >= 1, "a tick")
    first.kill()
    late = "select clock_timestamp() > next_tick + interval '2 seconds' from pgqueue.schedule"
    wait_for(lambda: scalar(conn, late), "two ticks have passed")
    second = shop.scheduler()
    second.alive_until(lambda: shop.count("pgqueue.schedule_fire where outcome = 'missed'") >= 2, "missed ticks")
    second.terminate()
    second.wait()
    check_each_second_has_one_tick_and_one_job(conn)
