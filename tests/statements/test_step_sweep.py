"""What steps leave behind goes when their job is nowhere any more; the functions of SQL refuse what cannot be sent."""

import psycopg
import pytest

from pgqueue import App, InvalidOption, UnknownJob, WrongState, db
from pgqueue.queries.steps import Swept
from tests.client.test_dead import add_dead
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, insert_job

STEP = "insert into pgqueue.step (job_id, name, kind, attempt, lease) values (%s, %s, 'value', 1, 1)"
UNDO = "insert into pgqueue.undo (job_id, number, lease, step, call, undo_job_id, ended_at) values (%s, %s, 1, 's', '{}', 9, %s)"  # noqa: E501


def left(conn: Conn, table: str) -> list[int]:
    return [row[0] for row in conn.execute(f"select distinct job_id from pgqueue.{table} order by 1").fetchall()]


def sweep(conn: Conn, at_most: int = 100) -> None:
    """Sweep until the end of each walk is reached."""
    after = Swept()
    for _ in range(20):
        after = db.run(conn, QUERIES.steps.sweep(after, at_most))
        if after == Swept():
            return
    raise AssertionError("the sweep does not end")


@pytest.mark.parametrize("at_most", [1, 2, 100])
def test_steps_and_undos_go_with_their_job(conn: Conn, at_most: int) -> None:
    live = insert_job(conn)
    add_dead(conn, 501, task="t")
    conn.execute(
        "insert into pgqueue.job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt,"
        " max_attempts, crash_count, lease, state, finished_at) select 502, task, queue, priority, args, tags, headers,"
        " run_at, created_at, attempt, max_attempts, crash_count, lease, 'succeeded', now() from pgqueue.job_live"
    )
    for job in (live, 501, 502, 600, 601, 602):
        for name in ("a", "b"):
            conn.execute(STEP, (job, name))
        conn.execute(UNDO, (job, 1, "2026-01-01"))
        conn.execute(UNDO, (job, 2, None))
    sweep(conn, at_most)
    assert left(conn, "step") == [live, 501, 502]
    assert scalar(conn, "select array_agg(number order by job_id) from pgqueue.undo where job_id >= 600") == [2, 2, 2]
    assert scalar(conn, "select count(*) from pgqueue.undo where job_id < 600") == 6


def test_signals_go_with_their_job_and_events_after_a_week(conn: Conn) -> None:
    live = insert_job(conn)
    add_dead(conn, 501, task="t")
    conn.execute(
        "insert into pgqueue.signal (job_id, name, data, seen)"
        " select j, 'go', '1', s from unnest(%s::bigint[]) as j, unnest('{t,f}'::bool[]) as s",
        ([live, 501, 600],),
    )
    conn.execute(
        "insert into pgqueue.awaited_event (name, key, data, at) values"
        " ('old', 'k', '1', now() - interval '8 days'), ('new', 'k', '1', now() - interval '6 days')"
    )
    sweep(conn)
    assert left(conn, "signal") == [live, 501, 600]
    assert scalar(conn, "select seen from pgqueue.signal where job_id = 600") is False  # nobody has looked at it yet
    assert scalar(conn, "select array_agg(name) from pgqueue.awaited_event") == ["new"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("signal(1, '')", "signal name '' cannot be used"),
        ("signal(99, 'go')", "no job 99 is waiting or running"),
        ("signal(1, 'go', 'null')", "signal go without data cannot be sent"),
        ("signal_event('', 'k')", "event name '' cannot be used"),
        ("signal_event('paid', null)", "event key NULL cannot be used"),
        ("signal_event('paid', 'k', null)", "event paid without data cannot be sent"),
    ],
)
def test_the_functions_refuse_what_cannot_be_sent(conn: Conn, call: str, says: str) -> None:
    insert_job(conn)
    with pytest.raises(psycopg.Error, match=says):
        conn.execute(f"select pgqueue.{call}".encode())


def test_only_a_dead_letter_or_a_cancelled_job_is_run_again(app: App, conn: Conn) -> None:
    live = insert_job(conn)
    with pytest.raises(WrongState, match="is pending: only a dead letter or a cancelled job is run again"):
        app.rerun(live)
    with pytest.raises(UnknownJob):
        app.rerun(99)
    add_dead(conn, 501, task="t")
    with pytest.raises(InvalidOption, match="job 501 has no step 'charge'"):
        app.rerun(501, from_step="charge")
    conn.execute(STEP, (501, "a"))
    assert app.rerun(501).state == "pending"
    assert left(conn, "step") == []
