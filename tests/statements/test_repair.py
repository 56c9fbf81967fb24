"""`pgqueue repair partitions`: large default partitions are emptied a day at a time, beside readers and writers."""

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest
from typer.testing import CliRunner

from pgqueue import App, db
from pgqueue.cli.commands import cli
from pgqueue.queries.partitions import empty_defaults, faulty
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, wait_blocked
from tests.statements.test_partitions import children, drop_partitions, grow_default, in_default, log_row, today
from tests.statements.test_races import at_once

pytestmark = pytest.mark.usefixtures("same_day")

Open = Callable[[], Conn]


def spread(conn: Conn) -> None:
    """Rows in a large default partition, on both sides of partitions; most of them and those of today in the latter."""
    log_row(conn, today(conn) - timedelta(days=25))
    log_row(conn, today(conn) - timedelta(days=22), rows=20)
    db.run(conn, QUERIES.partitions.split_default())
    day = today(conn) - timedelta(days=23)
    for history in ("transition",):
        conn.execute(
            f"create table pgqueue.{history}_{day:%Y%m%d} partition of pgqueue.{history}"
            f" for values from ('{day} 00:00:00+00') to ('{day + timedelta(days=1)} 00:00:00+00')".encode()
        )
    drop_partitions(conn, "day > today - 23 or day < today - 23")
    for days, rows in ((25, 30), (24, 40), (22, 50)):
        log_row(conn, today(conn) - timedelta(days=days), rows=rows)
    grow_default(conn, today(conn))


def repair(conn: Conn) -> None:
    for query in empty_defaults(QUERIES.partitions):
        db.run(conn, query)
    db.run(conn, QUERIES.partitions.make())


def test_days_on_the_other_side_of_a_partition_move_and_the_rest_becomes_a_partition(conn: Conn) -> None:
    spread(conn)
    whole = scalar(conn, "select count(*) from pgqueue.transition")
    repair(conn)
    assert faulty(db.run(conn, QUERIES.partitions.states())) == []
    moved = {f"{today(conn) - timedelta(days=days):%Y%m%d}" for days in (25, 24, 23)}
    assert moved < children(conn)
    assert scalar(conn, "select count(*) from pgqueue.transition") == whole
    assert in_default(conn) == 0
    assert scalar(conn, "select count(*) from pg_constraint where conname ~ '_without_'") == 0


def test_attaching_a_day_does_not_read_the_rest_under_a_lock(dsn: str, conn: Conn) -> None:
    spread(conn)
    said: list[str] = []
    with psycopg.connect(dsn, autocommit=True, options="-c client_min_messages=debug1") as own:
        own.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        db.run(own, QUERIES.partitions.guard_default())
        db.run(own, QUERIES.partitions.clear_default())
    assert sum('transition_default" is implied by existing constraints' in line for line in said) == 2


def test_a_day_that_cannot_be_attached_now_stays_and_moves_later(conn: Conn, connect: Open) -> None:
    spread(conn)
    before = in_default(conn)
    reader, writer = connect(), connect()
    reader.execute("select count(*) from pgqueue.transition")
    repair(conn)
    assert in_default(conn) == before
    with at_once(writer):
        log_row(writer, today(conn))
    writer.commit()
    reader.rollback()
    repair(conn)
    assert (in_default(conn), scalar(conn, "select count(*) from pgqueue.transition")) == (0, before + 1)


def test_a_day_that_a_crash_left_chosen_is_finished(conn: Conn) -> None:
    conn.execute(
        "alter table pgqueue.transition_default add constraint transition_without_20260101"
        " check (at < '2026-01-01 00:00:00+00' or at >= '2026-01-02 00:00:00+00') not valid"
    )
    db.run(conn, QUERIES.partitions.clear_default())
    assert scalar(conn, "select count(*) from pg_constraint where conname ~ '_without_'") == 0


def test_a_day_waits_for_a_transaction_that_reads_it_and_no_row_is_lost(conn: Conn, connect: Open, dsn: str) -> None:
    spread(conn)
    whole = scalar(conn, "select count(*) from pgqueue.transition")
    db.run(conn, QUERIES.partitions.guard_default())
    old = connect()
    old.execute("set transaction isolation level repeatable read")
    assert scalar(old, "select count(*) from pgqueue.transition") == whole
    with psycopg.connect(dsn, autocommit=True) as own:
        clearing = InThread(lambda: db.run(own, QUERIES.partitions.clear_default()))
        wait_blocked(conn, own, old)
        assert scalar(old, "select count(*) from pgqueue.transition") == whole
        old.rollback()
        clearing.result()
    assert scalar(conn, "select count(*) from pgqueue.transition") == whole


def test_the_command_empties_a_large_default_partition_while_writers_insert_and_readers_count(
    dsn: str, conn: Conn
) -> None:
    spread(conn)
    start = scalar(conn, "select count(*) from pgqueue.transition where job_id > 0")
    stop = threading.Event()
    counted: list[int] = []

    def write() -> int:
        written = 0
        with psycopg.connect(dsn, autocommit=True) as own:
            while not stop.is_set():
                own.execute("insert into pgqueue.transition (job_id, to_state) values (0, 'pending')")
                written += 1
        return written

    def count() -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            while not stop.is_set():
                counted.append(scalar(own, "select count(*) from pgqueue.transition where job_id > 0"))

    threads = [InThread(write), InThread(count)]
    try:
        for _ in range(20):  # what a reader holds at the moment is left for the next time
            done = CliRunner().invoke(cli, ["repair", "partitions", "--json", "--dsn", dsn])
            if done.exit_code == 0 and in_default(conn) == 0:
                break
    finally:
        stop.set()
    written, _ = threads[0].result(), threads[1].result()
    assert (done.exit_code, in_default(conn)) == (0, 0)
    assert {state["history"] for state in json.loads(done.stdout)} == {
        "activity", "job_finished", "published_event", "transition"
    }  # fmt: skip
    assert set(counted) == {start}
    assert scalar(conn, "select count(*) from pgqueue.transition") == start + written > start


def test_the_command_says_what_it_had_to_leave(dsn: str, conn: Conn, connect: Open) -> None:
    spread(conn)
    reader = connect()
    reader.execute("select count(*) from pgqueue.transition")
    done = CliRunner().invoke(cli, ["repair", "partitions", "--dsn", dsn])
    assert done.exit_code == 1
    assert "MB are in transition_default" in done.stderr


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_an_app_repairs(app: App, conn: Conn, colour: str) -> None:
    log_row(conn, today(conn) - timedelta(days=20))
    states = app.pruning.repair() if colour == "sync" else asyncio.run(app.pruning.arepair())
    assert (faulty(states), in_default(conn)) == ([], 0)
