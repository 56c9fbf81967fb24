"""Partitions of the histories: made ahead, made up for, and what happens to rows that came before them."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from pgqueue import db
from pgqueue.db.link import Link
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.process.partitions import PartitionMaker
from pgqueue.queries.partitions import PartitionState, faulty
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, new_job, wait_for
from tests.statements.test_races import at_once, claim

pytestmark = pytest.mark.usefixtures("same_day")

Open = Callable[[], Conn]
CHILDREN = """select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = %s::regclass order by 1"""
WIDE = "x" * 1900  # a row that is kept as it is, so that few of them are 16 MB


def partitions(conn: Conn) -> int:
    query = "select count(*) from pg_inherits where inhparent in (%s::regclass, %s::regclass)"
    return int(scalar(conn, query, "pgqueue.transition", "pgqueue.job_finished"))


def drop_partitions(conn: Conn, condition: str) -> None:
    """Drop the daily partitions whose name's date fulfils a condition on `day`."""
    daily = f"""select relname from pg_class join pg_namespace n on n.oid = relnamespace
        cross join lateral (select substring(relname from '_([0-9]{{8}})$')::date) as d(day)
        cross join lateral (select (now() at time zone 'UTC')::date) as t(today)
        where nspname = 'pgqueue' and relkind = 'r' and day is not null and ({condition})"""
    for (name,) in conn.execute(daily).fetchall():
        conn.execute(f"drop table pgqueue.{name}")


def test_four_processes_make_partitions_at_once_and_all_are_made(conn: Conn, dsn: str) -> None:
    whole = partitions(conn)
    drop_partitions(conn, "true")
    assert partitions(conn) == 2
    barrier = threading.Barrier(4)

    def make() -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            barrier.wait()
            db.run(own, QUERIES.partitions.make())

    for thread in [InThread(make) for _ in range(4)]:
        thread.result()
    assert partitions(conn) == whole == 2 + 2 * 9


def test_enqueue_claim_and_resolve_do_not_wait_for_the_making_of_partitions(conn: Conn, connect: Open) -> None:
    drop_partitions(conn, "day > today + 1")
    a, b = connect(), connect()
    db.run(a, QUERIES.partitions.make())
    with at_once(b):
        db.run(b, QUERIES.jobs.enqueue([new_job(run_at=datetime(2026, 1, 1, tzinfo=UTC))]))
        (job,) = claim(b)
        db.run(b, QUERIES.jobs.resolve([(job, Resolution("succeed"))]))


def test_making_partitions_gives_up_on_a_long_reader_and_raises_nothing(conn: Conn, connect: Open) -> None:
    drop_partitions(conn, "day = today + 7")
    before = partitions(conn)
    reader = connect()
    reader.execute("select count(*) from pgqueue.transition_default")
    making = InThread(lambda: db.run(conn, QUERIES.partitions.make()))
    making.result()
    assert partitions(conn) == before + 1  # of job_finished, which nobody reads
    reader.rollback()
    db.run(conn, QUERIES.partitions.make())
    assert partitions(conn) == before + 2


def test_making_partitions_leaves_a_day_alone_whose_rows_are_in_the_default_partition(conn: Conn) -> None:
    db.run(conn, QUERIES.partitions.make())  # midnight may have passed since the template was made
    drop_partitions(conn, "day = today")
    before = partitions(conn)
    db.run(conn, QUERIES.jobs.enqueue([new_job()]))
    db.run(conn, QUERIES.partitions.make())
    assert partitions(conn) == before + 1  # of job_finished, which has no row yet
    assert scalar(conn, "select count(*) from pgqueue.transition") == 1


def test_a_day_without_partitions_goes_to_the_default_one_and_loses_nothing(conn: Conn) -> None:
    drop_partitions(conn, "true")
    (row,) = db.run(conn, QUERIES.jobs.enqueue([new_job()]))
    (job,) = claim(conn)
    assert db.run(conn, QUERIES.jobs.resolve([(job, Resolution("succeed", result="1"))])) == {row.id}
    found = db.run(conn, QUERIES.jobs.get(row.id))
    assert found is not None
    assert (found.state, found.result, len(found.attempts)) == ("succeeded", 1, 1)
    assert scalar(conn, "select count(*) from pgqueue.transition_default") == 3
    assert scalar(conn, "select count(*) from pgqueue.job_finished_default") == 1


def children(conn: Conn, history: str = "transition") -> set[str]:
    """The partitions of a history without its name: days, stretches, `default`."""
    return {name.removeprefix(f"{history}_") for (name,) in conn.execute(CHILDREN, [f"pgqueue.{history}"]).fetchall()}


def today(conn: Conn) -> date:
    day: date = scalar(conn, "select (now() at time zone 'UTC')::date")
    return day


def log_row(conn: Conn, day: date, *, rows: int = 1, reason: str = "") -> None:
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    conn.execute(
        "insert into pgqueue.transition (job_id, to_state, at, reason)"
        " select n, 'pending', %s, %s from generate_series(1, %s) as n",
        [at, reason, rows],
    )


def grow_default(conn: Conn, day: date) -> None:
    """Put more than 16 MB into the default partition."""
    log_row(conn, day, rows=9000, reason=WIDE)
    assert scalar(conn, "select pg_relation_size('pgqueue.transition_default')") > 16 * 1024 * 1024


def outgrow(conn: Conn) -> None:
    db.run(conn, QUERIES.partitions.bound_default())
    db.run(conn, QUERIES.partitions.outgrow_default())


def upkeep(conn: Conn) -> list[PartitionState]:
    """Do what a process does; return what is left."""
    db.run(conn, QUERIES.partitions.split_default())
    outgrow(conn)
    db.run(conn, QUERIES.partitions.make())
    return faulty(db.run(conn, QUERIES.partitions.states()))


def in_default(conn: Conn) -> int:
    return int(scalar(conn, "select count(*) from pgqueue.transition_default"))


def test_rows_of_any_day_leave_a_small_default_partition_for_one_of_their_day(conn: Conn) -> None:
    drop_partitions(conn, "true")
    days = [today(conn) + timedelta(days=n) for n in (-40, -1, 0, 2, 30)]
    for day in days:
        log_row(conn, day)
    (row,) = db.run(conn, QUERIES.jobs.enqueue([new_job()]))
    (job,) = claim(conn)
    db.run(conn, QUERIES.jobs.resolve([(job, Resolution("succeed", result="1"))]))
    assert upkeep(conn) == []
    assert in_default(conn) == 0
    assert {f"{day:%Y%m%d}" for day in days} < children(conn)
    assert scalar(conn, "select count(*) from pgqueue.transition") == len(days) + 3
    found = db.run(conn, QUERIES.jobs.get(row.id))
    assert found is not None
    assert (found.result, len(found.attempts)) == (1, 1)


def test_a_row_that_is_committed_while_the_lock_is_awaited_is_moved_too(conn: Conn, connect: Open, dsn: str) -> None:
    drop_partitions(conn, "true")
    log_row(conn, today(conn))
    writer = connect()
    log_row(writer, today(conn))
    with psycopg.connect(dsn, autocommit=True) as own:
        splitting = InThread(lambda: db.run(own, QUERIES.partitions.split_default()))
        wait_for(lambda: scalar(conn, "select pg_blocking_pids(%s)", own.info.backend_pid) == [writer.info.backend_pid])
        writer.commit()
        splitting.result()
    assert (in_default(conn), scalar(conn, "select count(*) from pgqueue.transition")) == (0, 2)


def test_splitting_gives_up_on_a_long_writer_and_goes_on_later(conn: Conn, connect: Open) -> None:
    drop_partitions(conn, "true")
    log_row(conn, today(conn))
    writer = connect()
    log_row(writer, today(conn))
    db.run(conn, QUERIES.partitions.split_default())
    assert (in_default(conn), children(conn)) == (1, {"default"})
    other = connect()
    with at_once(other):
        log_row(other, today(conn))
    other.commit()
    writer.commit()
    db.run(conn, QUERIES.partitions.split_default())
    assert in_default(conn) == 0


def test_a_large_default_partition_becomes_the_partition_of_its_days(conn: Conn) -> None:
    drop_partitions(conn, "true")
    day = today(conn)
    grow_default(conn, day - timedelta(days=3))
    log_row(conn, day)
    faults = faulty(db.run(conn, QUERIES.partitions.states()))
    assert [fault.history for fault in faults] == ["activity", "job_finished", "published_event", "transition"]
    conn.execute("prepare add as insert into pgqueue.transition (job_id, to_state) values (0, 'pending')")
    conn.execute("execute add")
    assert upkeep(conn) == []
    stretch = f"{day - timedelta(days=3):%Y%m%d}_{day + timedelta(days=8):%Y%m%d}"
    assert children(conn) == {"default", stretch}
    conn.execute("execute add")
    assert (in_default(conn), scalar(conn, f"select count(*) from pgqueue.transition_{stretch}")) == (0, 9003)
    assert upkeep(conn) == []
    left = "select count(*) from pg_constraint where conrelid = %s::regclass and conname ~ '[0-9]{8}$'"
    assert scalar(conn, left, f"pgqueue.transition_{stretch}") == 0
    indexes = "select count(*) from pg_index where indrelid = %s::regclass"
    assert [scalar(conn, indexes, f"pgqueue.transition_{name}") for name in children(conn)] == [1, 1]


def test_a_large_default_partition_of_old_days_leaves_newer_partitions_as_they_are(conn: Conn) -> None:
    before = children(conn)
    old = today(conn) - timedelta(days=20)
    grow_default(conn, old)
    assert upkeep(conn) == []
    assert children(conn) == before | {f"{old:%Y%m%d}_{min(before - {'default'})}"}


def test_a_large_default_partition_is_left_alone_where_partitions_lie_between_its_days(conn: Conn) -> None:
    log_row(conn, today(conn) + timedelta(days=20))
    before = children(conn)
    grow_default(conn, today(conn) - timedelta(days=20))
    (fault,) = upkeep(conn)
    assert (fault.history, fault.missing, children(conn)) == ("transition", 0, before)
    assert "transition: 1" in str(fault)
    assert scalar(conn, "select count(*) from pgqueue.transition") == 9001


def test_a_change_that_a_crash_cut_off_is_finished_or_taken_back(conn: Conn) -> None:
    drop_partitions(conn, "true")
    day = today(conn)
    grow_default(conn, day)

    def leave(lo: date, hi: date) -> str:
        name = f"transition_{lo:%Y%m%d}_{hi:%Y%m%d}"
        conn.execute(
            f"alter table pgqueue.transition_default add constraint {name}"
            f" check (at >= '{lo} 00:00:00+00' and at < '{hi} 00:00:00+00') not valid".encode()
        )
        return name.removeprefix("transition_")

    leave(day - timedelta(days=5), day + timedelta(days=2))
    outgrow(conn)
    assert children(conn) == {"default"}
    assert scalar(conn, "select count(*) from pg_constraint where conname ~ '^transition_2'") == 0
    stretch = leave(day - timedelta(days=5), day + timedelta(days=6))
    outgrow(conn)
    assert children(conn) == {"default", stretch}


def test_outgrowing_gives_up_on_a_long_writer_and_leaves_nothing(conn: Conn, connect: Open) -> None:
    drop_partitions(conn, "true")
    grow_default(conn, today(conn))
    writer = connect()
    log_row(writer, today(conn))
    outgrow(conn)
    assert children(conn) == {"default"}
    assert scalar(conn, "select count(*) from pg_constraint where conname ~ '^transition_2'") == 0
    writer.rollback()
    assert upkeep(conn) == []


@pytest.fixture
def reader_dsn(conn: Conn, dsn: str) -> Iterator[str]:
    """The database, for a role that owns nothing."""
    role = scalar(conn, "select 'r' || substr(md5(random()::text), 1, 8)")
    conn.execute(f"create role {role} login; grant usage on schema pgqueue to {role}".encode())
    yield psycopg.conninfo.make_conninfo(dsn, user=role, password="any")
    conn.execute(f"drop owned by {role}; drop role {role}".encode())


def test_a_role_that_owns_nothing_makes_nothing_and_sees_what_is_missing(conn: Conn, reader_dsn: str) -> None:
    drop_partitions(conn, "day >= today")
    log_row(conn, today(conn))
    with psycopg.connect(reader_dsn, autocommit=True) as own:
        faults = upkeep(own)
    assert [(f.history, f.first_missing, f.missing) for f in faults] == [
        (history, today(conn), 7) for history in ("activity", "job_finished", "published_event", "transition")
    ]
    assert in_default(conn) == 1


def test_the_duty_says_what_it_mends_and_what_it_cannot(
    conn: Conn, dsn: str, reader_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pgqueue")
    drop_partitions(conn, "day >= today")
    log_row(conn, today(conn))

    async def step(dsn: str, times: int = 1) -> list[float]:
        link = Link(db.Database(dsn), "pgqueue test")
        duty = PartitionMaker(link, QUERIES)
        try:
            return [await duty.step() for _ in range(times)]
        finally:
            await link.close()

    waits = asyncio.run(step(reader_dsn, 2))
    assert max(waits) <= 300
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 5  # once, not at each step: the rows, and each history
    assert f"partitions of 7 of the next 7 days, from {today(conn)} on, are missing" in said[-1]
    caplog.clear()
    assert asyncio.run(step(dsn))[0] >= 1800
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "rows came before their partition, and get one now"
    ]
    assert in_default(conn) == 0
