"""What is wrong with the schema: its version, its parts, its indexes, its partitions."""

import psycopg
import pytest

from pgqueue import App, migrate
from pgqueue.doctor.description import described
from tests.conftest import scalar
from tests.doctor.looks import found, mend, provoked
from tests.harness import Conn

pytestmark = pytest.mark.usefixtures("same_day")


def test_a_database_without_pgqueue_has_one_finding_and_no_failures(empty_dsn: str) -> None:
    app = App(empty_dsn)
    assert provoked(app, "schema-missing").remedy == "pgqueue migrate"
    assert {f.id for f in app.doctor().findings} & {"not-checked", "partition-missing", "schema-behind"} == set()


def test_an_older_and_a_newer_schema_are_told_apart(app: App, conn: Conn) -> None:
    conn.execute("update pgqueue.migration set version_num = '0001'")
    behind = provoked(app, "schema-behind")
    assert "version 0001" in behind.what
    assert described().version in behind.what
    conn.execute("update pgqueue.migration set version_num = '9999'")
    assert "version 9999" in provoked(app, "schema-ahead").what
    assert found(app, "schema-behind") == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("drop index pgqueue.job_live_expires", "index job_live_expires is missing"),
        ("drop index pgqueue.activity_at", "index activity_at is missing"),
        ("alter table pgqueue.worker drop constraint worker_bounds", "constraint worker.worker_bounds is missing"),
        ("alter table pgqueue.idempotency_key drop column request", "column idempotency_key.request is missing"),
        (
            "drop index pgqueue.job_live_expires; create index job_live_expires on pgqueue.job_live (expires_at)",
            "index job_live_expires is 'CREATE INDEX",
        ),
    ],
)
def test_a_part_that_somebody_has_changed_is_named_and_made_anew_by_its_remedy(
    app: App, conn: Conn, change: str, what: str
) -> None:
    assert found(app, "schema-drifted") == []
    conn.execute(change.encode())
    finding = provoked(app, "schema-drifted")
    assert finding.what.startswith(what)
    mend(conn, finding)
    assert found(app, "schema-drifted") == []


def test_a_changed_type_and_a_missing_function_are_named(app: App, conn: Conn) -> None:
    conn.execute("alter table pgqueue.idempotency_key alter column request type int")
    assert provoked(app, "schema-drifted").what == (
        "column idempotency_key.request is 'integer', and should be 'bigint'"
    )
    conn.execute(
        "drop function pgqueue.schedule_run; alter table pgqueue.idempotency_key alter column request type bigint"
    )
    assert provoked(app, "schema-drifted").what == "function schedule_run(name text, by text) is missing"


def test_what_no_migration_made_is_good_to_know_but_not_in_tables_of_others(app: App, conn: Conn) -> None:
    conn.execute("create table pgqueue.mine (id int primary key)")
    assert found(app, "schema-has-more") == []
    conn.execute("alter table pgqueue.dead_letter add column note text")
    mend(conn, provoked(app, "schema-has-more"))
    conn.execute("create index extra on pgqueue.job_live (tags)")
    mend(conn, provoked(app, "schema-has-more"))
    assert found(app, "schema-has-more") == []


def test_settings_of_a_table_that_are_lost_are_set_again(app: App, conn: Conn) -> None:
    conn.execute("alter table pgqueue.worker reset (fillfactor, autovacuum_vacuum_threshold)")
    mend(conn, provoked(app, "table-settings-lost"))
    conn.execute("alter table pgqueue.worker set (fillfactor = 60)")  # somebody's choice, which is not lost
    assert found(app, "table-settings-lost") == []


def test_the_schema_may_have_any_name(empty_dsn: str) -> None:
    migrate.upgrade(empty_dsn, "jobs")
    app = App(empty_dsn, schema="jobs")
    assert app.doctor(only=["schema-drifted", "schema-has-more", "partitions-few"]).findings == []
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("drop index jobs.job_live_expires")
        mend(conn, provoked(app, "schema-drifted"))
    assert found(app, "schema-drifted") == []


def test_an_index_whose_making_failed_is_found_and_made(app: App, conn: Conn) -> None:
    conn.execute(
        "insert into pgqueue.dead_letter (id, task, queue, reason) values (1, 't', 'q', 'x'), (2, 't', 'q', 'x')"
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("create unique index concurrently once on pgqueue.dead_letter (task)")
    assert provoked(app, "index-invalid").what == "index once of dead_letter is invalid"
    conn.execute("delete from pgqueue.dead_letter where id = 2")
    mend(conn, provoked(app, "index-invalid"))
    assert found(app, "index-invalid") == []


def test_what_a_broken_off_reindex_leaves_is_to_be_dropped(app: App, conn: Conn) -> None:
    conn.execute(
        "insert into pgqueue.dead_letter (id, task, queue, reason) values (1, 't', 'q', 'x'), (2, 't', 'q', 'x')"
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("create unique index concurrently once_ccnew on pgqueue.dead_letter (task)")
    mend(conn, provoked(app, "index-invalid"))
    assert scalar(conn, "select to_regclass('pgqueue.once_ccnew')") is None


def drop_days(conn: Conn, first: int) -> None:
    """Drop the partitions of `transition` from so many days after today on."""
    days = (
        "select to_char(now() at time zone 'UTC' + make_interval(days => d), 'YYYYMMDD') from generate_series(%s, 7) d"
    )
    for (day,) in conn.execute(days.encode(), (first,)).fetchall():
        conn.execute(f"drop table pgqueue.transition_{day}".encode())


def test_a_missing_partition_of_today_or_tomorrow_is_an_error_and_of_later_days_a_warning(app: App, conn: Conn) -> None:
    drop_days(conn, 4)
    assert found(app, "partitions-few") == []
    drop_days_3 = "select to_char(now() at time zone 'UTC' + interval '3 days', 'YYYYMMDD')"
    conn.execute(f"drop table pgqueue.transition_{scalar(conn, drop_days_3)}".encode())
    assert "transition has no partition of" in provoked(app, "partitions-few").what
    assert found(app, "partition-missing") == []
    today = scalar(conn, "select to_char(now() at time zone 'UTC', 'YYYYMMDD')")
    conn.execute(f"drop table pgqueue.transition_{today}".encode())
    assert "0 days from today" in provoked(app, "partition-missing").what


@pytest.mark.parametrize("zone", ["Etc/GMT-14", "Etc/GMT+12"])  # at any time one of them has another date than UTC
def test_days_are_those_of_utc_whatever_the_timezone_of_the_database(app: App, conn: Conn, zone: str) -> None:
    drop_days(conn, 3)
    conn.execute(f"alter database {scalar(conn, 'select current_database()')} set timezone = '{zone}'".encode())
    assert "3 days from today" in provoked(app, "partitions-few").what


def test_rows_in_a_default_partition_are_found_and_a_large_one_is_an_error(app: App, conn: Conn) -> None:
    assert found(app, "default-partition-used") == []
    conn.execute(
        "insert into pgqueue.transition (job_id, at, to_state) values (1, now() + interval '1 year', 'pending')"
    )
    assert provoked(app, "default-partition-used").what.startswith("transition_default has rows")
    conn.execute(
        "insert into pgqueue.transition (job_id, at, to_state, reason)"
        " select 1, now() + interval '1 year', 'pending', repeat('x', 1000) from generate_series(1, 17000)"
    )
    assert provoked(app, "default-partition-large").what.startswith("transition_default has rows, 1")
    assert found(app, "default-partition-used") == []
    conn.execute("delete from pgqueue.transition_default")
    assert found(app, "default-partition-large") == []
