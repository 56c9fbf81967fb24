"""Expand, then contract: each migration is a transaction, indexes are built beside those who write, and a contract is
refused while a process lives that it would break. No contract exists yet, so these migrations are made up."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from pgqueue import NotMigrated, OlderReleaseRuns, ReleaseTooOld, db, migrate
from pgqueue.cli import main
from pgqueue.errors import ConfigError, MigrationBlocked
from pgqueue.migrate import locks
from pgqueue.migrate import steps as migrations
from pgqueue.process.heartbeat import Identity, describe_process
from pgqueue.queries import Queries
from pgqueue.revisions import newest
from tests.conftest import scalar
from tests.harness import InThread, add_worker, insert_job, wait_for

Conn = psycopg.Connection[Any]
Make = Callable[..., None]
TEMPLATE = """
from alembic import op
revision, down_revision = {revision!r}, {previous!r}
branch_labels = depends_on = None
{declared}
def upgrade():
    for statement in {statements!r}:
        op.execute(statement.format(s=op.get_context().opts["pgqueue_schema"]))
"""
CONTRACT = "kind, needs = 'contract', {needs!r}"
DROP = "alter table {s}.job_live drop column progress"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make up a migration after those of the package."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrate.directory(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "directory", lambda: folder)

    def make(revision: str, *statements: str, declared: str = "") -> None:
        text = TEMPLATE.format(
            revision=revision, previous=migrate.head(), declared=declared, statements=statements
        )  # fmt: skip
        (folder / "versions" / f"{revision}_made_up.py").write_text(text)
        migrations._read.cache_clear()
        migrations._scripts.cache_clear()

    return make


def sleeping(monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], None]) -> None:
    """Let the migrator call this where it pauses: the migrator alone, for libraries have threads that sleep, too."""
    monkeypatch.setattr(locks, "time", SimpleNamespace(sleep=sleep))


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", "200ms")
    monkeypatch.setattr(locks, "PAUSE", 0.0)


def columns(conn: Conn) -> int:
    found = (
        "select count(*) from information_schema.columns where table_schema = 'pgqueue' and column_name = 'progress'"
    )
    count: int = scalar(conn, found + " and table_name = 'job_live'")
    return count


def knows(conn: Conn, worker: object, version: str | None) -> None:
    conn.execute("update pgqueue.worker set knows = %s where id = %s", (version, worker))


def test_a_contract_is_refused_while_an_older_release_lives_naming_host_and_pid(
    dsn: str, conn: Conn, make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("9001", DROP + " cascade", declared=CONTRACT.format(needs=newest()))
    add_worker(conn, knows=None)
    conn.execute("update pgqueue.worker set host = 'web-3', pid = 4711, version = '0.1.0'")
    with pytest.raises(OlderReleaseRuns) as refused:
        migrate.upgrade(dsn)
    assert str(refused.value) == (
        "migration 9001 takes away what older releases use, and one still runs: worker on web-3, pid 4711, pgqueue "
        "0.1.0; stop it first, or say --force"
    )
    print(f"\nerror: {refused.value}")
    assert (migrate.current(dsn), columns(conn)) == (newest(), 1)
    add_worker(conn, knows=None)
    with pytest.raises(OlderReleaseRuns, match=r"\(and 1 more\)"), psycopg.connect(dsn) as host:
        migrate.upgrade(host)
    monkeypatch.setattr(sys, "argv", ["pgqueue", "migrate", "--dsn", dsn])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    monkeypatch.setattr(sys, "argv", ["pgqueue", "migrate", "--dsn", dsn, "--force"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert (migrate.current(dsn), columns(conn)) == ("9001", 0)
    assert scalar(conn, "select needs from pgqueue.compat where revision = '9001'") == newest()


@pytest.mark.parametrize(
    "change",
    [
        "lost_at = now()",
        "heartbeat_at = now() - interval '1 minute'",
        f"knows = '{newest()}'",
        "knows = '9000'",
    ],
)
def test_a_contract_waits_for_nobody_who_is_gone_or_knows_enough(dsn: str, conn: Conn, make: Make, change: str) -> None:
    make("9001", DROP + " cascade", declared=CONTRACT.format(needs=newest()))
    add_worker(conn, knows=None)
    conn.execute(f"update pgqueue.worker set {change}".encode())
    assert migrate.upgrade(dsn)[1] == "9001"


def test_no_process_gets_between_the_look_and_the_commit(dsn: str, conn: Conn, make: Make) -> None:
    """It inserts its row when the contract is committed, then looks once more, and refuses."""
    make("9001", "select 1", declared=CONTRACT.format(needs="9000"))
    database, queries = db.Database(dsn), Queries("pgqueue")
    identity = Identity(database, queries, describe_process("worker", 30, ["default"], [], 1))
    with psycopg.connect(dsn) as migrator:
        migrate.upgrade(migrator)
        starting = InThread(identity.start)
        blocked = "select count(*) from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
        wait_for(lambda: scalar(conn, blocked, migrator.info.backend_pid), "the worker to wait for the migration")
        migrator.commit()
    with pytest.raises(ReleaseTooOld, match="only releases work that know 9000"):
        starting.result()
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


def test_a_release_runs_on_a_newer_schema_and_on_none_that_is_older(dsn: str, conn: Conn) -> None:
    identity = Identity(db.Database(dsn), Queries("pgqueue"), describe_process("worker", 30, ["default"], [], 1))
    conn.execute("update pgqueue.migration set version_num = '0018'")
    with pytest.raises(NotMigrated, match=r"version 0018, and this pgqueue \(.*\) needs \d+: run `pgqueue migrate`"):
        identity.start()
    conn.execute("update pgqueue.migration set version_num = '9999'")
    identity = Identity(db.Database(dsn), Queries("pgqueue"), describe_process("worker", 30, ["default"], [], 1))
    identity.start()
    assert scalar(conn, "select knows from pgqueue.worker") == newest()
    identity.stop()


def test_each_migration_is_a_transaction_and_one_that_fails_leaves_those_before_it(dsn: str, make: Make) -> None:
    make("9001", "create table {s}.first (id int)")
    make("9002", "create table {s}.second (id int)", "select 1 / 0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate.upgrade(dsn)
    assert migrate.current(dsn) == "9001"
    with psycopg.connect(dsn) as conn:
        assert scalar(conn, "select to_regclass('pgqueue.first') is not null and to_regclass('pgqueue.second') is null")


def test_a_migration_tries_again_for_a_lock_and_lets_the_others_go_on_in_between(
    dsn: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("9001", "alter table {s}.job_live add column made_up text")
    with psycopg.connect(dsn) as business, psycopg.connect(dsn, autocommit=True) as other:
        insert_job(business)
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            insert_job(other)  # nobody waits behind the migrator
            if len(pauses) == 2:
                business.commit()

        sleeping(monkeypatch, pause)
        assert migrate.upgrade(dsn) == (newest(), "9001")
        assert len(pauses) == 2
        insert_job(business)
        make("9002", "alter table {s}.job_live add column made_up_too text")
        sleeping(monkeypatch, lambda _: None)
        with pytest.raises(MigrationBlocked, match="5 times for 200ms, and migration 9002 was not done"):
            migrate.upgrade(dsn)


INDEXES = (("made_up_live", "job_live", "(task)"), ("made_up_log", "transition", "(reason) where reason is not null"))
BUILD = tuple(f"create index if not exists {name} on {{s}}.{table} {rest}" for name, table, rest in INDEXES)


def invalid(conn: Conn, table: str) -> list[str]:
    found = (
        "select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid"
        " where t.relnamespace = 'pgqueue'::regnamespace and t.relname like %s and c.relname like 'made_up%%'"
    )
    rows = conn.execute(found + " and not i.indisvalid", [f"{table}%"]).fetchall()
    assert scalar(conn, f"select count(*) from ({found}) i".encode().decode(), f"{table}%")  # type: ignore[arg-type]
    return [row[0] for row in rows]


def test_indexes_are_built_while_the_table_is_written_and_partition_by_partition(
    dsn: str, conn: Conn, make: Make
) -> None:
    make("9001", *BUILD, declared=f"concurrently = {INDEXES!r}")
    with psycopg.connect(dsn) as business, psycopg.connect(dsn, autocommit=True) as other:
        insert_job(business)
        migrating = InThread(lambda: migrate.upgrade(dsn))
        blocked = "select count(*) from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
        wait_for(lambda: scalar(conn, blocked, business.info.backend_pid), "the build to wait for the open transaction")
        other.execute("set lock_timeout = '1s'")
        insert_job(other)  # nobody waits behind it
        business.commit()
        assert migrating.result() == (newest(), "9001")
    assert (invalid(conn, "job_live"), invalid(conn, "transition")) == ([], [])
    partitions = scalar(conn, "select count(*) from pg_inherits where inhparent = 'pgqueue.transition'::regclass")
    assert partitions > 5
    assert (
        scalar(conn, "select count(*) from pg_inherits where inhparent = 'pgqueue.made_up_log'::regclass") == partitions
    )


def test_a_build_that_was_interrupted_is_made_anew(dsn: str, conn: Conn, make: Make) -> None:
    for _ in range(2):
        insert_job(conn)
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("create unique index concurrently made_up_live on pgqueue.job_live (task)")
    assert invalid(conn, "job_live") == ["made_up_live"]
    conn.execute("create index made_up_log on only pgqueue.transition (reason) where reason is not null")
    make("9001", *BUILD, declared=f"concurrently = {INDEXES!r}")
    migrate.upgrade(dsn)
    assert (invalid(conn, "job_live"), invalid(conn, "transition")) == ([], [])


def test_a_new_schema_a_script_and_a_hosts_transaction_build_indexes_plainly(empty_dsn: str, make: Make) -> None:
    make("9001", *BUILD, declared=f"concurrently = {INDEXES!r}")
    assert "concurrently" not in migrate.script(since=newest())
    with psycopg.connect(empty_dsn) as host:
        migrate.upgrade(host)
        assert (invalid(host, "job_live"), invalid(host, "transition")) == ([], [])
    migrate.upgrade(empty_dsn, "another")


def test_a_script_has_the_look_at_who_still_runs(dsn: str, conn: Conn, make: Make) -> None:
    make("9001", DROP + " cascade", declared=CONTRACT.format(needs=newest()))
    script = migrate.script(since=newest()).encode()
    worker = add_worker(conn, knows=None)
    with psycopg.connect(dsn) as dba:
        with pytest.raises(psycopg.errors.ObjectInUse, match="worker on h, pid 1"):
            dba.execute(script)
        dba.rollback()
        knows(conn, worker, newest())
        dba.execute(script)
    assert migrate.current(dsn) == "9001"


@pytest.mark.parametrize("declared", ["kind = 'contract'", "kind = 'shrink'", "needs = '0001'"])
def test_a_migration_that_declares_half_a_contract_is_refused(make: Make, declared: str) -> None:
    make("9001", "select 1", declared=declared)
    with pytest.raises(ConfigError, match="migration 9001 has kind="):
        migrate.head()
