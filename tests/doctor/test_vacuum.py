"""Dead rows: all four sources of the oldest snapshot, tables that keep dead rows, and indexes that have grown."""

import contextlib
import re

import psycopg
import pytest

from pgqueue import App
from tests.conftest import scalar
from tests.doctor.looks import execute, found, mend, provoked
from tests.harness import Conn, wait_for
from tests.stress.clusters import Cluster

FILL = "insert into pgqueue.job_live (task, queue) select 't', 'q' from generate_series(1, {})"


def test_a_connection_whose_transaction_is_old_is_named_with_the_line_that_ends_it(
    app: App, conn: Conn, dsn: str
) -> None:
    with psycopg.connect(dsn, application_name="report") as holder:
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select from pgqueue.job_live")
        assert found(app, "snapshot-of-connection") == []  # not yet ten minutes old
        finding = provoked(app, "snapshot-of-connection", transaction_seconds=0)
        pid = holder.info.backend_pid
        assert re.fullmatch(
            rf"connection {pid} of role \w+, application 'report', idle in transaction: "
            r"its transaction keeps the dead rows of \d+ transactions",
            finding.what,
        )
        assert finding.since is not None
        assert finding.remedy == f"select pg_terminate_backend({pid});"
        mend(conn, finding)
        wait_for(lambda: scalar(conn, "select count(*) = 0 from pg_stat_activity where pid = %s", pid))
        with contextlib.suppress(psycopg.OperationalError):
            holder.rollback()
    assert found(app, "snapshot-of-connection", transaction_seconds=0) == []


def test_a_transaction_that_has_written_keeps_rows_without_a_snapshot(app: App, dsn: str) -> None:
    with psycopg.connect(dsn) as holder:
        holder.execute("insert into pgqueue.queue (name) values ('q')")
        assert str(holder.info.backend_pid) in provoked(app, "snapshot-of-connection", transaction_seconds=0).what


def test_connections_of_other_databases_and_those_that_only_idle_keep_nothing(
    app: App, dsn: str, empty_dsn: str
) -> None:
    with psycopg.connect(empty_dsn) as elsewhere, psycopg.connect(dsn):
        elsewhere.execute("create table here ()")
        assert found(app, "snapshot-of-connection", transaction_seconds=0) == []


def test_a_prepared_transaction_is_found_and_its_quotes_are_safe(own_app: App, own_conn: Conn) -> None:
    own_conn.execute("begin; insert into pgqueue.queue (name) values ('p'); prepare transaction 'it''s'")
    assert found(own_app, "snapshot-of-prepared-transaction") == []
    finding = provoked(own_app, "snapshot-of-prepared-transaction", transaction_seconds=0)
    assert finding.what.startswith('prepared transaction "it\'s" of role postgres keeps the dead rows of ')
    assert finding.since is not None
    mend(own_conn, finding)
    assert found(own_app, "snapshot-of-prepared-transaction", transaction_seconds=0) == []


def burn(conn: Conn) -> None:
    """Let some transaction ids pass."""
    for _ in range(3):
        conn.execute("select pg_current_xact_id()")


def test_a_replication_slot_that_nobody_uses_is_found_and_dropped(own_app: App, own_conn: Conn) -> None:
    own_conn.execute("select pg_create_logical_replication_slot('forgotten', 'test_decoding')")
    burn(own_conn)
    finding = provoked(own_app, "snapshot-of-replication-slot", kept_xids=1)
    assert finding.what.startswith(
        "replication slot forgotten, which nobody uses, keeps the dead rows of the catalogue"
    )
    assert found(own_app, "snapshot-of-replication-slot") == []  # of few transactions only
    mend(own_conn, finding)
    assert found(own_app, "snapshot-of-replication-slot", kept_xids=0) == []


def test_the_feedback_of_a_standby_is_found_with_a_slot_and_without(
    server: tuple[Cluster, Cluster], own_app: App, own_conn: Conn
) -> None:
    primary, standby = server
    standby.copy(primary)
    settings = ("hot_standby=on", "hot_standby_feedback=on", "wal_receiver_status_interval=1",
                "max_prepared_transactions=2", "wal_level=logical")  # fmt: skip
    standby.start(*settings)
    with psycopg.connect(standby.dsn()) as report:
        report.execute("set transaction isolation level repeatable read")
        report.execute("select from pgqueue.job_live")
        burn(own_conn)
        wait_for(lambda: found(own_app, "snapshot-of-standby", kept_xids=1), "the feedback")
        what = provoked(own_app, "snapshot-of-standby", kept_xids=1).what
        assert what.startswith("standby 'standby' at 127.0.0.1, connection ")
    own_conn.execute("select pg_create_physical_replication_slot('one')")
    standby.control("stop", "-m", "fast")
    standby.start(*settings, "primary_slot_name=one")
    with psycopg.connect(standby.dsn()) as report:
        report.execute("set transaction isolation level repeatable read")
        report.execute("select from pgqueue.job_live")
        burn(own_conn)
        wait_for(lambda: found(own_app, "snapshot-of-replication-slot", kept_xids=1), "the feedback")
        slot = provoked(own_app, "snapshot-of-replication-slot", kept_xids=1)
        assert re.match(r"replication slot one, which connection \d+ uses, keeps the dead rows of \d+", slot.what)
        assert slot.remedy is not None
        execute(standby.dsn(), slot.remedy)  # names the report
        assert found(own_app, "snapshot-of-standby", kept_xids=1) == []
    standby.control("stop", "-m", "fast")
    own_conn.execute("select pg_drop_replication_slot('one')")


def test_many_dead_rows_that_vacuum_has_left_are_found_with_their_share(app: App, conn: Conn) -> None:
    conn.execute("alter table pgqueue.job_live set (autovacuum_enabled = off)")
    conn.execute(FILL.format(1000).encode())
    conn.execute("delete from pgqueue.job_live where id % 4 > 0")
    conn.execute("select pg_stat_force_next_flush()")
    wait_for(lambda: found(app, "dead-rows", dead_rows=500), "the statistics")
    finding = provoked(app, "dead-rows", dead_rows=500)
    assert finding.what == "table job_live has 750 dead rows, 75% of its rows; never vacuumed"
    assert found(app, "dead-rows", dead_rows=500, dead_share=0.8) == []
    assert found(app, "dead-rows") == []
    mend(conn, finding)
    assert found(app, "dead-rows", dead_rows=1) == []


def test_a_table_that_nothing_vacuums_is_an_error(app: App, conn: Conn) -> None:
    assert found(app, "autovacuum-off") == []
    conn.execute("alter table pgqueue.job_live set (autovacuum_enabled = false)")
    mend(conn, provoked(app, "autovacuum-off"))
    assert found(app, "autovacuum-off") == []


@pytest.mark.parametrize("setting", ["autovacuum", "track_counts"])
def test_a_server_that_vacuums_nothing_is_an_error(own_app: App, own_conn: Conn, setting: str) -> None:
    own_conn.execute(f"alter system set {setting} = off".encode())
    own_conn.execute("select pg_reload_conf()")
    wait_for(lambda: found(own_app, "autovacuum-off"), "the setting")
    mend(own_conn, provoked(own_app, "autovacuum-off"))
    wait_for(lambda: not found(own_app, "autovacuum-off"), "the setting")


def test_an_index_that_has_grown_and_holds_little_is_found_and_built_anew(app: App, conn: Conn) -> None:
    conn.execute(FILL.format(20_000).encode())
    conn.execute("vacuum (analyze) pgqueue.job_live")
    assert found(app, "index-bloated", index_bytes=100_000) == []  # large, and rightly so
    conn.execute("delete from pgqueue.job_live where id % 100 > 0")
    conn.execute("vacuum (analyze) pgqueue.job_live")
    wait_for(lambda: len(found(app, "index-bloated", index_bytes=600_000)) == 1, "the statistics")
    finding = provoked(app, "index-bloated", index_bytes=600_000)
    assert re.match(r"index job_live_ready has 1 MB, and would have about 0 MB", finding.what), finding.what
    mend(conn, finding)
    assert found(app, "index-bloated", index_bytes=600_000) == []
