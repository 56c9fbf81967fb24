"""A job that kills its workers: it ends, names them, and is rescued at once if a supervisor saw the death."""

import os
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from pgqueue import App, InvalidOption, db
from tests.conftest import scalar
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
