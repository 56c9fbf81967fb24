"""`pgqueue work --burst`: a worker runs what is due, and what that lets be due, and ends."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from pgqueue import App, Limit, Rate, Retry, chord, group
from pgqueue.worker import Worker, WorkerSettings
from tests.conftest import scalar
from tests.harness import Conn, Process, add_worker, insert_job


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def burst(app: App, **settings: Any) -> bool:
    async def run() -> bool:
        async with asyncio.timeout(30):
            return await Worker(app, WorkerSettings(burst=True, **settings)).run()

    return asyncio.run(run())


def test_a_burst_runs_all_that_is_due_and_what_that_enqueues(app: App, conn: Conn) -> None:
    @app.task
    def count_down(n: int) -> None:
        if n:
            count_down.enqueue(n - 1)

    many = count_down.enqueue_many({"n": 0} for _ in range(300))
    first = count_down.enqueue(5)
    assert burst(app)
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    assert scalar(conn, "select count(*) from pgqueue.job where state = 'succeeded'") == len(many) + 6
    assert app.get(first.id).state == "succeeded"


def test_a_burst_without_a_job_ends(app: App, conn: Conn) -> None:
    assert burst(app)
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


def test_a_burst_runs_a_retry_that_is_due_at_once_and_leaves_later_ones(app: App) -> None:
    @app.task(max_attempts=3)
    def flaky(ctx_delay: int) -> None:
        raise Retry(delay=ctx_delay)

    soon, later = flaky.enqueue(0), flaky.enqueue(60)
    assert burst(app)
    assert (app.get(soon.id).state, app.get(soon.id).attempt) == ("failed", 3)
    assert (app.get(later.id).phase, app.get(later.id).attempt) == ("retrying", 1)


def test_a_burst_leaves_what_is_scheduled_paused_elsewhere_and_unknown(app: App, conn: Conn) -> None:
    task = app.task(name="t")(lambda: None)
    left = [
        task.using(delay=60).enqueue(),
        task.using(queue="paused").enqueue(),
        task.using(queue="other").enqueue(),
        app.enqueue("stranger"),
    ]
    now = scalar(conn, "select now()")
    held = insert_job(conn, state="running", attempt=1, lease=1, worker_id=add_worker(conn), claimed_at=now)
    app.queues.pause("paused")
    done = task.enqueue()
    assert burst(app, queues=["default", "paused"])
    assert app.get(done.id).state == "succeeded"
    assert [app.get(job.id).state for job in left] == ["pending", "pending", "pending", "blocked"]
    assert app.get(held).state == "running"


def test_a_burst_hands_on_the_turns_of_its_own_jobs_and_waits_for_a_rate(app: App, conn: Conn) -> None:
    one = app.task(name="one", limit=Limit(1))(lambda: None)
    paced = app.task(name="paced", limit=Rate(20, per=1, burst=1))(lambda: None)
    one.enqueue_many({} for _ in range(6))
    paced.enqueue_many({} for _ in range(4))
    assert burst(app)
    assert scalar(conn, "select count(*) from pgqueue.job_finished where state = 'succeeded'") == 10


def test_a_burst_leaves_retries_of_limited_tasks_that_are_due_within_seconds(app: App, conn: Conn) -> None:
    runs: list[str] = []

    @app.task(name="limited", limit=Limit(2), retry=[3], max_attempts=2)
    def limited() -> None:
        runs.append("limited")
        raise LookupError

    @app.task(name="paced", limit=Rate(50, per=1, burst=1))
    def paced() -> None:
        runs.append("paced")

    jobs = [limited.enqueue(), paced.using(delay=3).enqueue()]
    paced.enqueue_many({} for _ in range(3))
    assert burst(app)
    assert sorted(runs) == ["limited", "paced", "paced", "paced"]
    assert [app.get(job.id).state for job in jobs] == ["blocked", "blocked"]
    assert scalar(conn, "select count(*) from pgqueue.job_live where run_at > now()") == 2


def test_a_burst_leaves_jobs_whose_limit_others_hold(app: App, conn: Conn) -> None:
    begun, ends = threading.Event(), threading.Event()

    @app.task(name="one", limit=Limit(1))
    def one(waits: bool = False) -> None:
        if waits:
            begun.set()
            assert ends.wait(60)

    held = one.enqueue(waits=True)
    other = App(app.dsn)
    other.task(name="one", limit=Limit(1))(lambda waits=False: None)
    with app.worker():
        assert begun.wait(30)
        left = one.enqueue()
        assert burst(other)
        assert [app.get(job.id).state for job in (held, left)] == ["running", "blocked"]
        ends.set()
    other.close()


def test_a_burst_does_not_wait_for_turns_that_others_hold_or_that_are_paused(app: App, conn: Conn) -> None:
    one = app.task(name="one", limit=Limit(1))(lambda: None)
    paused = app.task(name="paused")(lambda: None)
    first = one.enqueue()
    app.pause(task="paused")
    burst(app)  # writes the rule
    assert app.get(first.id).state == "succeeded"
    app.pause(limit="one")
    jobs = [one.enqueue(), paused.enqueue()]
    assert burst(app)
    assert [app.get(job.id).state for job in jobs] == ["blocked", "blocked"]


def test_a_burst_runs_a_workflow_to_its_end(app: App) -> None:
    @app.task
    def add(n: int) -> int:
        return n + 1

    @app.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    run = chord(group(add.s(n) for n in range(20)), total.s()).enqueue()
    assert burst(app)
    assert app.get(run.jobs[-1]).result == sum(range(1, 21))


def test_a_burst_serves_queues_that_match_a_pattern(app: App) -> None:
    task = app.task(name="t")(lambda: None)
    job = task.using(queue="tenant-7").enqueue()
    assert burst(app, queues=["tenant-*"])
    assert app.get(job.id).state == "succeeded"


SHOP = """
import pgqueue
app = pgqueue.App()
@app.task(name="t")
def t() -> None: ...
@app.schedule(3600, name="s")
@app.task(name="ticked")
def ticked() -> None: ...
"""


def test_a_command_in_a_burst_ends_with_status_0(tmp_path: Path, dsn: str, conn: Conn) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    insert_job(conn, task="t")
    with Process(tmp_path, dsn, "work", "-A", "shop:app", "--burst") as worker:
        assert worker.wait() == 0
        assert "the burst ends" in worker.log()
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    with Process(tmp_path, dsn, "work", "-A", "shop:app", "--burst", "--with-scheduler") as worker:
        assert worker.wait() != 0
        assert "schedule --once" in worker.log()


@pytest.mark.servers
def test_a_supervisor_starts_no_worker_again_that_has_ended_its_burst(tmp_path: Path, dsn: str, conn: Conn) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    insert_job(conn, task="t")
    with Process(tmp_path, dsn, "work", "-A", "shop:app", "--burst", "--processes", "2") as parent:
        assert parent.wait() == 0
        assert parent.log().count("out of jobs") == 2
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
