"""Sagas: what recorded steps have done is undone when the job dies or is cancelled, in reverse order, each once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgqueue import App, Context, Fail, InvalidStep, JobState, Task, db
from tests.conftest import drain, scalar
from tests.harness import QUERIES, WORKER, Conn, Process, wait_for
from tests.worker.test_waits_of_jobs import ASLEEP, run_until


@pytest.fixture
def done() -> list[str]:
    """What ran, in order."""
    return []


@pytest.fixture
def undo(app: App, done: list[str]) -> Task[[str], None]:
    @app.task(name="undo", max_attempts=2, retry=0)
    def undo(what: str) -> None:
        done.append(f"undo {what}")

    return undo


def order(app: App, undo: Task[[str], None], done: list[str], end: Callable[[Context], Any]) -> Task[[], Any]:
    """A task with three steps, two of which can be undone, and an end."""

    @app.task(name="order", max_attempts=1)
    def order(ctx: Context) -> Any:
        ctx.step("look", done.append, "look")
        ctx.step("charge", done.append, "charge", undo=undo.s("charge"))
        ctx.step("mail", done.append, "mail")
        ctx.step("ship", done.append, "ship", undo=undo.s(what="ship"))
        return end(ctx)

    return order


def fail(ctx: Context) -> None:
    raise Fail("no")


def test_a_dead_letter_undoes_its_steps_in_reverse_order(
    app: App, conn: Conn, undo: Task[[str], None], done: list[str]
) -> None:
    job = order(app, undo, done, fail).enqueue()
    drain(app, conn)
    assert done == ["look", "charge", "mail", "ship", "undo ship", "undo charge"]
    assert app.get(job.id).state == JobState.FAILED
    shown = conn.execute(
        "select step, task, ended_at is not null from pgqueue.undo_status where job_id = %s order by number", (job.id,)
    ).fetchall()
    assert shown == [("charge", "undo", True), ("ship", "undo", True)]
    assert scalar(conn, "select array_agg(name) from pgqueue.step where job_id = %s", job.id) == ["look"]


def test_a_job_that_succeeds_undoes_nothing(app: App, conn: Conn, undo: Task[[str], None], done: list[str]) -> None:
    order(app, undo, done, lambda _: None).enqueue()
    drain(app, conn)
    assert done == ["look", "charge", "mail", "ship"]


def test_a_redrive_begins_at_the_first_step_that_was_undone(
    app: App, conn: Conn, undo: Task[[str], None], done: list[str]
) -> None:
    ends: list[Callable[[Context], Any]] = [fail, lambda _: None]
    job = order(app, undo, done, lambda ctx: ends.pop(0)(ctx)).enqueue()
    drain(app, conn)
    app.retry(job.id)
    done.clear()
    drain(app, conn)
    assert done == ["charge", "mail", "ship"]
    assert app.get(job.id).state == JobState.SUCCEEDED


def test_a_waiting_job_that_is_cancelled_undoes_its_steps(
    app: App, conn: Conn, undo: Task[[str], None], done: list[str]
) -> None:
    job = order(app, undo, done, lambda ctx: ctx.wait_signal("paid")).enqueue()
    run_until(
        app,
        lambda: scalar(conn, ASLEEP) == 1,
        lambda: app.cancel(job.id),
        lambda: done[4:] == ["undo ship", "undo charge"],
    )


def test_a_cancellation_that_rolls_back_undoes_nothing(
    app: App, conn: Conn, undo: Task[[str], None], done: list[str]
) -> None:
    job = order(app, undo, done, lambda ctx: ctx.wait_signal("paid")).enqueue()
    run_until(app, lambda: scalar(conn, ASLEEP) == 1)
    with conn.transaction(force_rollback=True):
        app.using(conn).cancel(job.id)
        assert scalar(conn, "select count(*) from pgqueue.job_live where task = 'undo'") == 1
    assert scalar(conn, "select count(*) from pgqueue.undo") == 0
    assert scalar(conn, "select count(*) from pgqueue.step") == 5


def test_a_running_job_that_is_cancelled_undoes_its_steps(
    app: App, conn: Conn, undo: Task[[str], None], done: list[str]
) -> None:
    def until_cancelled(ctx: Context) -> None:
        while True:
            ctx.check()

    job = order(app, undo, done, until_cancelled).enqueue()
    run_until(
        app,
        lambda: len(done) == 4,
        lambda: app.cancel(job.id) is False,
        lambda: done[4:] == ["undo ship", "undo charge"],
    )


def test_an_undo_that_dies_holds_the_earlier_ones_until_it_is_redriven(app: App, conn: Conn, done: list[str]) -> None:
    broken = [True]

    @app.task(name="undo", max_attempts=1)
    def undo(what: str) -> None:
        if broken[0]:
            raise Fail("not now")
        done.append(f"undo {what}")

    order(app, undo, done, fail).enqueue()
    drain(app, conn)
    assert done[4:] == []
    broken[0] = False
    app.retry(scalar(conn, "select id from pgqueue.dead_letter where task = 'undo'"))
    drain(app, conn)
    assert done[4:] == ["undo ship", "undo charge"]


def test_an_undo_that_completes_in_its_own_transaction_is_followed_by_the_next(
    app: App, conn: Conn, done: list[str]
) -> None:
    @app.task(name="undo")
    def undo(ctx: Context, what: str) -> None:
        with ctx.transaction():
            done.append(f"undo {what}")

    order(app, undo, done, fail).enqueue()  # type: ignore[arg-type]
    drain(app, conn)
    assert done[4:] == ["undo ship", "undo charge"]


def test_compensate_undoes_by_hand_and_once(app: App, conn: Conn, undo: Task[[str], None], done: list[str]) -> None:
    tries: list[int] = []

    @app.task(name="order2", max_attempts=3, retry=0)
    def order2(ctx: Context) -> str:
        ctx.step("charge", done.append, "charge", undo=undo.s("charge"))
        ctx.compensate()
        ctx.step("again", done.append, "again", undo=undo.s("again"))
        tries.append(1)
        if len(tries) == 1:
            raise OSError
        return "refused"

    job = order2.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == "refused"
    assert sorted(done) == ["again", "charge", "undo charge"]


def test_the_rescue_of_a_job_that_crashed_too_often_undoes_its_steps(
    app: App, conn: Conn, undo: Task[[str], None], done: list[str]
) -> None:
    job = order(app, undo, done, lambda ctx: ctx.wait_signal("paid")).enqueue()
    run_until(app, lambda: scalar(conn, ASLEEP) == 1)
    conn.execute(
        "update pgqueue.job_live set state = 'running', attempt = 1, claimed_at = now(), crash_count = 99,"
        " worker_id = gen_random_uuid()"
    )
    run_until(app, lambda: done[4:] == ["undo ship", "undo charge"])
    assert app.get(job.id).reason == "crashed"


def test_a_stray_claim_of_a_cancelled_job_undoes_its_steps(
    app: App, conn: Conn, undo: Task[[str], None], done: list[str]
) -> None:
    order(app, undo, done, lambda ctx: ctx.wait_signal("paid")).enqueue()
    run_until(app, lambda: scalar(conn, ASLEEP) == 1)
    conn.execute(
        "update pgqueue.job_live set state = 'running', attempt = 1, claimed_at = now(), worker_id = %s,"
        " cancel_requested_at = now()",
        (WORKER,),
    )
    db.run(conn, QUERIES.jobs.release_strays(WORKER, []))
    assert scalar(conn, "select count(*) from pgqueue.job_live where task = 'undo'") == 1


def test_an_undo_that_is_no_call_is_refused_before_the_step_runs(app: App, conn: Conn, done: list[str]) -> None:
    @app.task(max_attempts=1)
    def bad(ctx: Context) -> None:
        ctx.step("charge", done.append, "charge", undo="refund")  # type: ignore[arg-type]

    job = bad.enqueue()
    drain(app, conn)
    error = app.get(job.id).error
    assert error is not None
    assert error.type == f"{InvalidStep.__module__}.InvalidStep"
    assert done == []


SAGA = """
import os, signal
import psycopg
import pgqueue
app = pgqueue.App()


def die(point):
    with psycopg.connect(os.environ["PGQUEUE_DSN"], autocommit=True) as conn:
        insert = "insert into public.point values (%s) on conflict do nothing returning 1"
        new = conn.execute(insert, (point,)).fetchone()
    if new:
        os.kill(os.getpid(), signal.SIGKILL)

@app.task(name="undo", max_crashes=100, max_attempts=100, retry=0)
def undo(ctx: pgqueue.Context, n: int) -> None:
    die(f"undo {n} begins")
    with ctx.transaction() as conn:
        conn.execute("insert into public.effect (what) values (%s)", (f"undo {n}",))
    die(f"undo {n} ended")

def effect(conn, n):
    conn.execute("insert into public.effect (what) values (%s)", (f"do {n}",))
    die(f"step {n} before its record")

@app.task(name="saga", max_crashes=100, max_attempts=100, retry=0)
def saga(ctx: pgqueue.Context) -> None:
    for n in range(3):
        die(f"before step {n}")
        ctx.step("effect", effect, n, transaction=True, undo=undo.s(n))
        die(f"after step {n}")
    raise pgqueue.Fail("no")
"""


def test_a_saga_killed_at_each_point_does_and_undoes_each_step_once(dsn: str, conn: Conn, tmp_path: Path) -> None:
    (tmp_path / "saga.py").write_text(SAGA)
    conn.execute("create table public.point (name text primary key)")
    conn.execute("create table public.effect (n bigint generated always as identity, what text)")
    App(dsn).enqueue("saga")
    quiet = "select count(*) = 0 from pgqueue.job_live"
    kills = 0
    while not scalar(conn, quiet):
        with Process(tmp_path, dsn, "work", "-A", "saga:app", "-c", "1") as process:
            wait_for(lambda: not process.running or scalar(conn, quiet), "the kill or the end")
            kills += not process.running
        conn.execute("update pgqueue.worker set lost_at = now()")
        conn.execute("update pgqueue.job_live set crash_count = 0")  # a second crash would put it off for seconds
        assert kills <= 16, process.log()
    # The last of the 15 points lies behind the end of the last undo: nobody waits for it.
    assert kills >= 14 <= scalar(conn, "select count(*) from public.point")
    effects = conn.execute("select what from public.effect order by n").fetchall()
    assert [what for (what,) in effects] == ["do 0", "do 1", "do 2", "undo 2", "undo 1", "undo 0"]
