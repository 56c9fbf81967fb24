"""Servers that lose commits, ids that run out, clocks, queues and poolers."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from pgqueue import App
from pgqueue.doctor import examine
from tests.conftest import scalar
from tests.doctor.looks import found, mend, provoked
from tests.edges.test_pgbouncer import bouncer_dsn
from tests.harness import Conn, wait_for

__all__ = ["bouncer_dsn"]  # a fixture


@pytest.mark.parametrize(
    ("setting", "finding_id"),
    [("fsync", "fsync-off"), ("full_page_writes", "full-page-writes-off"),
     ("synchronous_commit", "synchronous-commit-off")],
)  # fmt: skip
def test_a_server_whose_commits_a_crash_may_lose_is_found(
    own_app: App, own_conn: Conn, setting: str, finding_id: str
) -> None:
    assert found(own_app, finding_id) == []
    own_conn.execute(f"alter system set {setting} = off".encode())
    own_conn.execute("select pg_reload_conf()")
    wait_for(lambda: found(own_app, finding_id), "the setting")
    (finding,) = found(own_app, finding_id)
    assert finding.what == f"{setting} is off"
    mend(own_conn, finding)
    wait_for(lambda: not found(own_app, finding_id), "the setting")


def test_all_three_at_once_are_found(own_app: App, own_conn: Conn) -> None:
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        own_conn.execute(f"alter system set {setting} = off".encode())
    own_conn.execute("select pg_reload_conf()")
    wait_for(lambda: found(own_app, "synchronous-commit-off"), "the settings")
    assert provoked(own_app, "fsync-off").severity == "error"
    assert provoked(own_app, "full-page-writes-off").severity == "error"
    assert provoked(own_app, "synchronous-commit-off").severity == "warn"


def test_a_role_for_which_commits_do_not_wait_is_found(own_app: App, own_conn: Conn) -> None:
    own_conn.execute('create role "Quick"; alter role "Quick" in database postgres set synchronous_commit = off')
    finding = provoked(own_app, "synchronous-commit-off")
    assert finding.what == "synchronous_commit is off for role Quick in database postgres"
    mend(own_conn, finding)
    assert found(own_app, "synchronous-commit-off") == []
    own_conn.execute('drop role "Quick"')


def test_a_table_that_a_crash_would_empty_is_found_but_not_the_hints(app: App, conn: Conn) -> None:
    assert found(app, "table-unlogged") == []
    conn.execute("alter table pgqueue.dead_letter set unlogged")
    mend(conn, provoked(app, "table-unlogged"))
    assert found(app, "table-unlogged") == []


def test_a_queue_of_notifications_that_fills_is_found(own_app: App, own_conn: Conn) -> None:
    if own_conn.info.server_version < 170000:
        pytest.skip("the queue's size can be set from PostgreSQL 17 on")
    with psycopg.connect(own_conn.info.dsn) as sleeper:
        sleeper.execute("listen x")
        sleeper.commit()
        sleeper.execute("select 1")  # in a transaction it takes no notification
        own_conn.execute("select pg_notify('x', repeat(i::text, 700)) from generate_series(1000, 1080) as i")
        assert provoked(own_app, "notify-queue-filling").what.endswith("% full")
    assert found(own_app, "notify-queue-filling", notify_usage=0.9) == []


@pytest.mark.parametrize(("seconds", "way"), [(60, "ahead of"), (-60, "behind")])
def test_clocks_that_differ_are_found(app: App, seconds: int, way: str) -> None:
    finding = next(iter(examine(app, ["clock-differs"], clock=lambda: datetime.now(UTC) + timedelta(seconds=seconds))
                        .findings))  # fmt: skip
    assert finding.id == "clock-differs"
    assert finding.what.startswith(("the clock of this machine is 60.", "the clock of this machine is 59."))
    assert way in finding.what
    assert found(app, "clock-differs") == []
    assert provoked(app, "clock-differs", clock_seconds=-1)


def test_ids_that_are_near_their_end_are_found(app: App, conn: Conn) -> None:
    assert found(app, "ids-running-out") == []
    conn.execute("select setval('pgqueue.job_id', 5000000000000000000)")
    assert provoked(app, "ids-running-out").what == "sequence job_id is at 5000000000000000000, 54% of its numbers"


def test_transaction_ids_that_nothing_freezes_are_found(app: App, conn: Conn) -> None:
    assert found(app, "wraparound-near") == []
    for _ in range(20):
        conn.execute("select pg_current_xact_id()")
    age = scalar(conn, "select age(datfrozenxid) from pg_database where datname = current_database()")
    findings = found(app, "wraparound-near", xids=1e-9)
    assert f"is {age}" in findings[0].what or findings[0].what.startswith("the oldest transaction id")
    assert provoked(app, "wraparound-near", xids=(age - 1) / 200_000_000)


def test_a_pooler_in_transaction_mode_that_the_app_does_not_know_of_is_found(dsn: str, bouncer_dsn: str) -> None:
    assert found(App(dsn), "pooler-unannounced") == []
    finding = provoked(App(bouncer_dsn), "pooler-unannounced")
    assert finding.what.startswith("two statements on one connection ran on backends ")
    assert found(App(bouncer_dsn, pgbouncer=True), "pooler-unannounced") == []
    assert [f for f in App(bouncer_dsn, pgbouncer=True).doctor().findings if f.id == "not-checked"] == []
