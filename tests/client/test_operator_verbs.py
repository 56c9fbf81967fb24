"""One job retried, promoted, edited by a person, in the caller's transaction; and who wins against a claim."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, InvalidArguments, InvalidOption, Task, UnknownJob, UnknownKey, WrongState, db
from pgqueue.codecs import AESGCM
from tests.client.test_dead import add_dead
from tests.conftest import drain, scalar
from tests.harness import QUERIES, Conn, InThread, add_worker, heard, insert_job, wait_blocked

LOG = "select from_state, to_state, reason, error from pgqueue.transition where job_id = %s order by at"
SOON = "select run_at <= now() from pgqueue.job_live where id = %s"
OVER = datetime(2126, 1, 1, tzinfo=UTC)


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def waiting_job(conn: Conn, **columns: Any) -> int:
    """Insert a job that waits for its next attempt, in an hour."""
    return insert_job(conn, **{"attempt": 1, "lease": 1, "run_at": OVER, "args": '{"n": 1}'} | columns)


def finished_job(conn: Conn, job: int, state: str = "cancelled", args: str = '{"n": 1}') -> int:
    conn.execute(
        "insert into pgqueue.job_finished (id, task, queue, args, attempt, lease, state, reason)"
        " values (%s, 'ship', 'default', %s, 3, 4, %s, 'why')", (job, args, state),
    )  # fmt: skip
    return job


def running_job(conn: Conn, **columns: Any) -> int:
    job = insert_job(conn, **columns)
    db.run(conn, QUERIES.jobs.claim(add_worker(conn), {"default": 1}, 1))
    return job


def log(conn: Conn, job: int) -> list[Any]:
    return conn.execute(LOG, (job,)).fetchall()


def test_a_job_that_waits_for_its_next_attempt_runs_now(app: App, conn: Conn) -> None:
    job = waiting_job(conn)
    retried = app.retry(job, by="alice")
    assert (retried.phase, retried.attempt, scalar(conn, SOON, job)) == ("retrying", 1, True)
    assert log(conn, job) == [("pending", "pending", "retried by alice", None)]
    assert app.retry(job).phase == "retrying"  # it is due already: nothing is done
    assert len(log(conn, job)) == 1


def test_a_dead_letter_and_a_cancelled_job_come_back_with_all_their_attempts(
    app: App, conn: Conn, ship: Task[[int], int]
) -> None:
    add_dead(conn, 5, task="ship", args='{"n": 1}')
    finished_job(conn, 6)
    for job, reason in ((5, "redriven by alice"), (6, "brought back by alice")):
        found = app.retry(job, by="alice")
        assert (found.state, found.attempt, found.crash_count) == ("pending", 0, 0)
        assert log(conn, job)[-1][1:3] == ("pending", reason)
    assert scalar(conn, "select array_agg(lease order by id) from pgqueue.job_live") == [20, 4]
    drain(app, conn)
    assert [app.get(job).result for job in (5, 6)] == [2, 2]


def test_a_job_that_comes_back_wakes_a_worker_that_sleeps(app: App, conn: Conn, dsn: str) -> None:
    worker = add_worker(conn)
    db.run(conn, QUERIES.workers.set_waiting(worker, True))
    finished_job(conn, 5)
    add_dead(conn, 6)
    jobs = [waiting_job(conn), insert_job(conn, run_at=OVER), insert_job(conn, run_at=OVER)]
    with psycopg.connect(dsn, autocommit=True) as listener:
        db.run(listener, QUERIES.workers.listen())
        calls: list[Callable[[], object]] = [
            lambda: app.retry(5), lambda: app.retry(6), lambda: app.retry(jobs[0]), lambda: app.promote(jobs[1]),
            lambda: app.edit(jobs[2], delay=0),
        ]  # fmt: skip
        for call in calls:
            call()
            assert heard(listener, conn) == ["default"]


def test_arguments_that_the_task_refuses_keep_a_job_where_it_is(app: App, conn: Conn, ship: Task[[int], int]) -> None:
    add_dead(conn, 5, task="ship", args='{"n": "many"}')
    finished_job(conn, 6, args='{"n": "many"}')
    for job, state in ((5, "failed"), (6, "cancelled")):
        with pytest.raises(InvalidArguments, match="ship"):
            app.retry(job)
        assert (app.get(job).state, log(conn, job)) == (state, [])


STATES: dict[str, Callable[[Conn], int]] = {
    "pending": insert_job,
    "scheduled": lambda conn: insert_job(conn, run_at=OVER),
    "blocked": lambda conn: insert_job(conn, state="blocked", waits_for="task"),
    "running": running_job,
    "succeeded": lambda conn: finished_job(conn, 7, "succeeded"),
    "failed": lambda conn: (add_dead(conn, 7), 7)[1],
    "cancelled": lambda conn: finished_job(conn, 7),
}


@pytest.mark.parametrize(
    ("verb", "done", "states"),
    [("retry", "retried", "pending scheduled blocked running succeeded"),
     ("promote", "promoted", "blocked running succeeded failed cancelled"),
     ("edit", "edited", "running succeeded failed cancelled")],
)  # fmt: skip
def test_what_cannot_be_done_to_a_job_in_its_state_is_refused_and_named(
    app: App, conn: Conn, verb: str, done: str, states: str
) -> None:
    verbs: dict[str, Callable[[int], object]] = {
        "retry": app.retry, "promote": app.promote, "edit": lambda job: app.edit(job, {"n": 2})
    }  # fmt: skip
    for state in states.split():
        job = STATES[state](conn)
        before = log(conn, job)
        with pytest.raises(WrongState, match=f"job {job} is {state} and cannot be {done}") as raised:
            verbs[verb](job)
        assert (raised.value.state, log(conn, job)) == (state, before)
        conn.execute("truncate pgqueue.job_live, pgqueue.job_finished, pgqueue.dead_letter")
    with pytest.raises(UnknownJob):
        verbs[verb](4711)


def test_a_scheduled_job_is_due_now_and_may_get_another_priority(app: App, conn: Conn) -> None:
    job = insert_job(conn, run_at=OVER)
    assert app.promote(job, priority=9, by="alice").phase == "pending"
    assert conn.execute("select priority, run_at <= now() from pgqueue.job_live").fetchone() == (9, True)
    assert log(conn, job) == [("pending", "pending", "promoted by alice", None)]
    due = "select run_at from pgqueue.job_live"
    before = scalar(conn, due)
    assert app.promote(job, priority=20).priority == 20
    assert scalar(conn, due) == before  # it keeps its place among those of its priority
    with pytest.raises(InvalidOption, match="priority"):
        app.promote(job, priority=101)


def test_an_edit_changes_what_is_given_and_keeps_what_was_there(app: App, conn: Conn, ship: Task[[int], int]) -> None:
    job = ship.using(delay=3600, priority=1).enqueue(1)
    was_due = app.get(job.id).run_at
    edited = app.edit(job.id, {"n": 2}, queue="slow", priority=5, run_at=OVER, by="alice")
    assert (edited.args, edited.queue, edited.priority, edited.run_at) == ({"n": 2}, "slow", 5, OVER)
    moved = log(conn, job.id)[-1]
    assert moved[:3] == ("pending", "pending", "edited by alice")
    assert datetime.fromisoformat(moved[3].pop("previous_run_at")) == was_due
    assert moved[3] == {"previous_args": {"n": 1}, "previous_queue": "default", "previous_priority": 1}
    app.edit(job.id, delay=timedelta(0), queue="default")
    drain(app, conn)
    assert app.get(job.id).result == 4


def test_an_edit_that_the_task_refuses_or_that_changes_nothing_is_refused(
    app: App, conn: Conn, ship: Task[[int], int]
) -> None:
    job = ship.using(delay=3600).enqueue(1)
    with pytest.raises(InvalidArguments):
        app.edit(job.id, {"n": "many"})
    with pytest.raises(InvalidArguments):
        app.edit(job.id, {"m": 1})
    bad: list[dict[str, Any]] = [
        {}, {"queue": ""}, {"priority": 500}, {"delay": -1}, {"run_at": datetime(2030, 1, 1)},
        {"run_at": OVER, "delay": 1},
    ]  # fmt: skip
    for options in bad:
        with pytest.raises(InvalidOption):
            app.edit(job.id, **options)
    assert len(log(conn, job.id)) == 1
    assert app.get(job.id).args == {"n": 1}


def test_sealed_arguments_are_edited_sealed_and_not_without_their_key(dsn: str, conn: Conn) -> None:
    with_key, without = App(dsn, codec=AESGCM({"k": b"0" * 32})), App(dsn)
    job = with_key.using(delay=3600).enqueue("ship", {"n": 1})
    with pytest.raises(UnknownKey):
        without.edit(job.id, {"n": 2})
    assert without.edit(job.id, queue="slow").queue == "slow"
    with_key.edit(job.id, {"n": 2})
    assert list(scalar(conn, "select args from pgqueue.job_live")) == ["$codec"]
    assert with_key.get(job.id).args == {"n": 2}
    assert "$codec" in log(conn, job.id)[-1][3]["previous_args"]
    with_key.close()
    without.close()


def test_verbs_are_part_of_the_callers_transaction(app: App, conn: Conn, dsn: str) -> None:
    waiting, scheduled, edited = waiting_job(conn), insert_job(conn, run_at=OVER), insert_job(conn, run_at=OVER)
    finished_job(conn, 900)
    before = conn.execute("select * from pgqueue.job order by id").fetchall()
    with psycopg.connect(dsn) as borrowed:
        client = app.using(borrowed)
        client.retry(waiting)
        client.retry(900)
        client.promote(scheduled)
        client.edit(edited, queue="slow")
        assert client.why(scheduled).codes == ("no_worker", "ahead", "due")
        borrowed.rollback()
    assert conn.execute("select * from pgqueue.job order by id").fetchall() == before
    assert scalar(conn, "select count(*) from pgqueue.transition") == 0


def test_the_async_twins_do_the_same(app: App, conn: Conn) -> None:
    waiting, scheduled = waiting_job(conn), insert_job(conn, run_at=OVER)

    async def run() -> list[object]:
        why = await app.awhy(waiting)
        return [
            why.codes[0], (await app.aretry(waiting)).phase, (await app.apromote(scheduled)).phase,
            (await app.aedit(waiting, queue="slow")).queue,
        ]  # fmt: skip

    assert asyncio.run(run()) == ["retrying", "retrying", "pending", "slow"]


def claim(conn: Conn) -> list[int]:
    return [job.id for job in db.run(conn, QUERIES.jobs.claim(add_worker(conn), {"default": 5}, 5))]


CHANGES: dict[str, Callable[[App, Conn, int], object]] = {
    "retry": lambda app, conn, job: app.using(conn).retry(job),
    "promote": lambda app, conn, job: app.using(conn).promote(job, priority=5),
    "edit": lambda app, conn, job: app.using(conn).edit(job, priority=5),
    "cancel": lambda app, conn, job: app.using(conn).cancel(job),
}


@pytest.mark.parametrize("verb", ["promote", "edit", "cancel"])
def test_a_claim_passes_over_a_job_that_an_open_transaction_changes(app: App, conn: Conn, dsn: str, verb: str) -> None:
    job = insert_job(conn)
    with psycopg.connect(dsn) as changing, psycopg.connect(dsn, autocommit=True) as worker:
        CHANGES[verb](app, changing, job)
        worker.execute("set lock_timeout = '1ms'")
        assert claim(worker) == []  # it does not wait
        changing.commit()
        assert claim(worker) == ([] if verb == "cancel" else [job])


@pytest.mark.parametrize("verb", ["retry", "promote", "edit", "cancel"])
def test_a_change_waits_for_a_claim_in_flight_and_then_finds_a_job_that_runs(
    app: App, conn: Conn, dsn: str, verb: str
) -> None:
    job = insert_job(conn, attempt=1, lease=1) if verb == "retry" else insert_job(conn)
    with psycopg.connect(dsn) as worker, psycopg.connect(dsn) as changing:
        assert claim(worker) == [job]
        call = InThread(lambda: CHANGES[verb](app, changing, job))
        if verb == "retry":  # it is due already, as far as the caller can see: nothing to wait for
            call.result()
        else:
            wait_blocked(conn, changing, worker)
        worker.commit()
        if verb == "cancel":
            assert call.result() is False
        elif verb != "retry":
            with pytest.raises(WrongState, match="running"):
                call.result()
        changing.commit()
    row = conn.execute(
        "select state, priority, lease, cancel_requested_at is not null from pgqueue.job_live"
    ).fetchone()
    assert row == ("running", 0, 2 if verb == "retry" else 1, verb == "cancel")


def test_a_retry_waits_for_the_end_of_an_attempt_and_sees_what_became_of_it(app: App, conn: Conn, dsn: str) -> None:
    """The job waits for later, an open transaction has claimed it all the same; the retry must not undo that."""
    job = waiting_job(conn)
    with psycopg.connect(dsn) as worker, psycopg.connect(dsn) as retrying:
        lost = add_worker(worker)
        worker.execute("update pgqueue.job_live set state = 'running', worker_id = %s, claimed_at = now()", (lost,))
        call = InThread(lambda: app.using(retrying).retry(job))
        wait_blocked(conn, retrying, worker)
        worker.commit()
        with pytest.raises(WrongState, match="running"):
            call.result()


def test_of_two_that_bring_a_job_back_one_does(app: App, conn: Conn, dsn: str) -> None:
    finished_job(conn, 7)
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        app.using(first).retry(7)
        call = InThread(lambda: app.using(second).retry(7))
        wait_blocked(conn, second, first)
        first.commit()
        with pytest.raises(WrongState, match="pending"):
            call.result()
    assert len(log(conn, 7)) == 1


def test_of_two_edits_the_second_sees_what_the_first_has_written(app: App, conn: Conn, dsn: str) -> None:
    job = waiting_job(conn, args='{"a": 1, "b": 1}')
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        app.using(first).edit(job, {"a": 2})
        call = InThread(lambda: app.using(second).edit(job, {"b": 2}))
        wait_blocked(conn, second, first)
        first.commit()
        assert call.result().args == {"a": 2, "b": 2}
        second.commit()
