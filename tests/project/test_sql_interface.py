"""The views and functions that SQL may rely on: what they are called, what each column is, and what they keep to
themselves."""

import json
import uuid

import pytest

from tests.client.test_dead import add_dead
from tests.conftest import scalar
from tests.harness import Conn, add_worker, insert_job
from tests.project import sql_interface

SECRET = "customer 4711"
# The views that show what a job carries or what its errors say; readers have the others.
TELLING = {"job", "attempt"}


def views(conn: Conn) -> set[str]:
    return {row[0] for row in conn.execute("select viewname from pg_views where schemaname = 'pgqueue'").fetchall()}


def test_nothing_that_sql_may_rely_on_is_gone_or_changed(conn: Conn) -> None:
    assert sql_interface.broken(sql_interface.stored(), sql_interface.found(conn)) == []


def test_the_stored_list_has_what_was_added(conn: Conn) -> None:
    added = set(sql_interface.found(conn)) - set(sql_interface.stored())
    assert not added, "run `python -m tests.project.sql_interface`, and say on docs/sql.md what is new"


@pytest.mark.parametrize(
    "change",
    [
        "drop view pgqueue.schedule_tick",
        "alter view pgqueue.schedule_tick rename column reason to why",
        "drop function pgqueue.schedule_delete",
        "alter function pgqueue.schedule_delete rename to schedule_remove",
    ],
)
def test_a_change_that_breaks_somebodys_sql_is_found(conn: Conn, change: str) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute(change.encode())
        assert sql_interface.broken(sql_interface.stored(), sql_interface.found(conn))


def test_a_function_may_get_more_arguments_but_no_other_ones() -> None:
    before = ["function f returns int: a text", "function g returns int: "]
    assert (
        sql_interface.broken(before, ["function f returns int: a text, b text", "function g returns int: n int"]) == []
    )
    assert sql_interface.broken(before[:1], ["function f returns int: b text, a text"]) == before[:1]
    assert sql_interface.broken(["view v.a int"], ["view v.a int, b"]) == ["view v.a int"]


def test_each_view_and_each_column_says_what_it_is(conn: Conn) -> None:
    silent = conn.execute(
        "select c.relname || coalesce('.' || a.attname, '') from pg_class c"
        " left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0"
        " where c.relnamespace = 'pgqueue'::regnamespace and c.relkind = 'v'"
        " and (obj_description(c.oid, 'pg_class') is null or col_description(c.oid, a.attnum) is null)"
    ).fetchall()
    assert silent == []


def fill(conn: Conn) -> None:
    """Put a secret wherever a job, its errors or an operation can carry one."""
    carried = json.dumps({"who": SECRET})
    error = json.dumps({"type": "ValueError", "message": SECRET, "traceback": SECRET})
    running = {"state": "running", "attempt": 1, "worker_id": add_worker(conn), "claimed_at": "2026-01-01"}
    insert_job(conn, args=carried, headers=carried, progress=carried, **running)
    conn.execute(
        "insert into pgqueue.job_finished (id, task, queue, args, headers, state, result)"
        " values (101, 't', 'q', %s, %s, 'succeeded', %s)",
        (carried, carried, carried),
    )
    conn.execute(
        "insert into pgqueue.dead_letter (id, task, queue, args, headers, error, reason)"
        " values (102, 't', 'q', %s, %s, %s, 'exhausted')",
        (carried, carried, error),
    )
    conn.execute(
        "insert into pgqueue.transition (job_id, from_state, to_state, attempt, lease, worker_id, error)"
        " values (102, 'pending', 'running', 1, 1, %s, null), (102, 'running', 'failed', 1, 1, null, %s)",
        (uuid.uuid4(), error),
    )
    conn.execute(
        "insert into pgqueue.operation (kind, filter, error) values ('redrive', %s, %s)",
        (json.dumps({"args": {"who": SECRET}}), SECRET),
    )
    conn.execute(
        "insert into pgqueue.schedule (name, task, queue, every_seconds, next_tick, args, options)"
        " values ('s', 't', 'q', 60, '2026-01-01', %s, %s)",
        (carried, carried),
    )
    conn.execute(
        "insert into pgqueue.schedule_fire (schedule, tick, outcome, job_id) values ('s', '2026-01-01', 'fired', 101)"
    )


def test_views_for_readers_show_nothing_that_jobs_carry_or_that_errors_say(conn: Conn) -> None:
    fill(conn)
    shown = {
        view: scalar(conn, f"select coalesce(json_agg(v)::text, '') from pgqueue.{view} v") for view in views(conn)
    }
    assert {view for view, rows in shown.items() if SECRET in rows} == TELLING
    for view in ("job_status", "attempt_status", "job_history", "operation_status", "schedule_tick", "dead_group"):
        assert shown[view], f"{view} is empty, so this test shows nothing"
    assert "ValueError" in shown["job_status"]
    assert "ValueError" in shown["attempt_status"]


def test_the_status_of_a_job_is_that_of_the_job(conn: Conn) -> None:
    fill(conn)
    columns = conn.execute(
        "select string_agg(column_name, ', ') from information_schema.columns where table_schema = 'pgqueue'"
        " and table_name = 'job_status' and column_name in (select column_name from information_schema.columns"
        " where table_schema = 'pgqueue' and table_name = 'job')"
    ).fetchone()
    assert columns
    assert "phase" in columns[0]
    both = [conn.execute(f"select {columns[0]} from pgqueue.{v} order by id".encode()) for v in ("job", "job_status")]
    rows, statuses = (cursor.fetchall() for cursor in both)
    assert len(rows) == 3
    assert rows == statuses


def test_a_dead_letter_names_its_group(conn: Conn) -> None:
    fill(conn)
    add_dead(conn, 103, fingerprint="f" * 16)
    (without, named) = conn.execute(
        "select s.fingerprint, g.jobs from pgqueue.job_status s"
        " join pgqueue.dead_group g using (fingerprint) order by s.id"
    ).fetchall()
    assert without == ("class ValueError", 1)
    assert named == ("f" * 16, 1)


@pytest.mark.usefixtures("same_day")
def test_partitions_show_their_days_and_their_sizes(conn: Conn) -> None:
    rows = conn.execute(
        "select history, count(*) filter (where is_default), count(*) filter (where last_day = first_day),"
        " max(first_day) = (now() at time zone 'UTC')::date + 7, bool_and(bytes > 0)"
        " from pgqueue.partition_status group by history order by history"
    ).fetchall()
    histories = ("activity", "job_finished", "published_event", "transition")
    assert rows == [(history, 1, 9, True, True) for history in histories]
    insert_job(conn)
    conn.execute("insert into pgqueue.transition (job_id, to_state) select n, 'pending' from generate_series(1, 500) n")
    conn.execute("create table pgqueue.transition_20260101_20260104 partition of pgqueue.transition"
                 " for values from ('2026-01-01 00:00:00+00') to ('2026-01-04 00:00:00+00')")  # fmt: skip
    conn.execute("analyze pgqueue.transition")
    today = "select rows_estimated from pgqueue.partition_status where history = 'transition' and first_day = %s"
    assert scalar(conn, today, scalar(conn, "select (now() at time zone 'UTC')::date")) == 500
    days = conn.execute(
        "select first_day::text, last_day::text from pgqueue.partition_status where partition ~ '_20260101_'"
    ).fetchone()
    assert days == ("2026-01-01", "2026-01-03")
