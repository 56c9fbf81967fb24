"""A job that kills its workers: it ends, names them, and is rescued at once if a supervisor saw the death."""

import asyncio
import os
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from pgqueue import App, Context, InvalidOption, db
from pgqueue.db.link import Link
from pgqueue.scheduler import SchedulerSettings, Ticker, declare
from tests.conftest import drain, scalar, shown
from tests.harness import QUERIES, WORKER, Conn, Process, add_worker, insert_job, wait_for

POISON = """
import os, signal
import pgqueue
app = pgqueue.App()

@app.task(name="poison", max_crashes=2)
def poison() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
"""


def crash(conn: Conn, **values: object) -> int:
    """A job that was running when its worker was lost."""
    worker = add_worker(conn, beat_seconds_ago=60)
    conn.execute("update pgqueue.worker set lost_at = now() where id = %s", (worker,))
    now = scalar(conn, "select now()")
    return insert_job(conn, state="running", worker_id=worker, claimed_at=now, lease=1, attempt=1, **values)


@pytest.mark.parametrize(
    ("crashes", "task", "state"),
    [
        (1, "t", "pending"),
        (2, "t", "failed"),
        (0, "fragile", "failed"),
        (7, "tough", "pending"),
        (8, "tough", "failed"),
    ],
)
def test_the_limit_of_crashes_is_the_tasks_own_or_the_apps(conn: Conn, crashes: int, task: str, state: str) -> None:
    job = crash(conn, task=task, crash_count=crashes)
    db.run(conn, QUERIES.jobs.rescue(WORKER, 3, {"fragile": 1, "tough": 9}))
    assert conn.execute("select state, crash_count from pgqueue.job where id = %s", (job,)).fetchone() == (
        state,
        crashes + 1,
    )


def test_the_limit_travels_with_the_job_to_workers_that_do_not_know_its_task(app: App, conn: Conn) -> None:
    """A worker of another app rescued by its own limit: the job that kills workers killed more of them."""

    @app.task(name="fragile", max_crashes=1)
    def fragile(n: int = 0) -> None: ...

    @app.task(name="usual")
    def usual() -> None: ...

    jobs = [
        fragile.enqueue().id,
        *fragile.enqueue_many([{"n": 1}]),
        fragile.using(idempotency_key="a").enqueue(n=2).id,
        fragile.using(expires=60).enqueue(n=3).id,
        *fragile.using(idempotency_key=lambda n: str(n)).enqueue_many([{"n": 4}, {"n": 5}]),
        *fragile.using(unique_key="u").enqueue_many([{"n": 6}]),
    ]
    other = usual.enqueue().id
    assert scalar(conn, "select headers from pgqueue.job_live where id = %s", other) == {}
    worker = add_worker(conn, beat_seconds_ago=60)
    conn.execute("update pgqueue.worker set lost_at = now() where id = %s", (worker,))
    conn.execute(
        "update pgqueue.job_live set state = 'running', worker_id = %s, claimed_at = now(), lease = 1, attempt = 1",
        (worker,),
    )
    db.run(conn, QUERIES.jobs.rescue(WORKER, 5, {"of another app": 3}))
    assert [app.get(job).reason for job in jobs] == ["crashed"] * len(jobs)
    assert app.get(other).state == "pending"


def test_the_worker_that_knows_the_task_goes_by_its_own_limit(conn: Conn) -> None:
    jobs = [crash(conn, task=task, headers='{"$max_crashes": 1}') for task in ("t", "other")]
    db.run(conn, QUERIES.jobs.rescue(WORKER, 5, {"t": 9}))
    states = [scalar(conn, "select state from pgqueue.job where id = %s", job) for job in jobs]
    assert states == ["pending", "failed"]


@pytest.mark.parametrize(
    ("said", "state"),
    [('"x"', "pending"), ("null", "pending"), ("[1]", "pending"), ("{}", "pending"), ("true", "pending"),
     ("1e300", "pending"), ("9" * 400, "pending"),
     ("1.2", "pending"), ("0", "pending"), ("-1e300", "pending"), ("999999", "pending"), ("1", "failed")],
    ids=shown,
)  # fmt: skip
def test_a_limit_that_sql_wrote_breaks_no_rescue(conn: Conn, said: str, state: str) -> None:
    job = crash(conn, headers=f'{{"$max_crashes": {said}}}')
    db.run(conn, QUERIES.jobs.rescue(WORKER))
    assert scalar(conn, "select state from pgqueue.job where id = %s", job) == state


def test_a_schedule_gives_its_jobs_the_limit_of_their_task(app: App, conn: Conn) -> None:
    @app.schedule(3600)
    @app.task(name="t", max_crashes=2)
    def t(ctx: Context) -> None:
        assert sorted(ctx.headers) == ["schedule", "tick"]

    async def fire() -> None:
        link = Link(app.database, "test")
        await declare(app, link)
        conn.execute("update pgqueue.schedule set next_tick = '2026-01-01Z'")
        assert await Ticker(App(app.dsn), link, SchedulerSettings()).fire() == 1
        await link.close()

    asyncio.run(fire())
    assert scalar(conn, "select headers -> '$max_crashes' from pgqueue.job_live") == 2
    drain(app, conn)
    assert scalar(conn, "select state from pgqueue.job") == "succeeded"


def test_a_limit_is_a_whole_number_from_1_on(app: App) -> None:
    with pytest.raises(InvalidOption, match="max_crashes=0 cannot be used"):
        app.task(max_crashes=0)
    with pytest.raises(InvalidOption, match="max_crashes=True"):
        App(max_crashes=True)


def test_a_death_that_somebody_saw_is_told_to_the_rescuers_and_in_the_error(conn: Conn) -> None:
    worker = add_worker(conn, beat_seconds_ago=0)
    conn.execute("listen pgqueue")
    assert (
        db.run(conn, QUERIES.workers.record_deaths({worker: "was killed by SIGKILL", uuid4(): "never had a row"})) == 1
    )
    assert [note.payload for note in conn.notifies(timeout=5, stop_after=1)] == ["!rescue"]
    now = scalar(conn, "select now()")
    job = insert_job(conn, state="running", worker_id=worker, claimed_at=now, lease=1, attempt=1)
    db.run(conn, QUERIES.jobs.rescue(WORKER))
    text = scalar(conn, "select error ->> 'message' from pgqueue.transition where job_id = %s", job)
    assert "was killed by SIGKILL at 20" in text


def test_poison_ends_after_its_limit_and_names_the_workers_it_has_killed(tmp_path: Path, dsn: str, conn: Conn) -> None:
    (tmp_path / "shop.py").write_text(POISON)
    job = App(dsn).enqueue("poison")
    # The lease is far longer than the test: only what the supervisor reports makes the rescues come in time.
    with Process(tmp_path, dsn, "work", "-A", "shop:app", "--processes", "2", "--lease", "600") as parent:
        wait_for(lambda: scalar(conn, "select count(*) from pgqueue.dead_letter") == 1, "the dead letter")
        parent.signal(signal.SIGTERM)
        parent.wait()
    dead = App(dsn).get(job.id)
    assert (dead.state, dead.reason, dead.crash_count, dead.attempt) == ("failed", "crashed", 2, 2)
    assert dead.error is not None
    first, second = dead.error.message.split("; ")
    assert first != second
    for said in (first, second):
        assert f"worker on {os.uname().nodename}, pid" in said
        assert "was killed by SIGSEGV at" in said
