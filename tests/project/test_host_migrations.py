"""pgqueue's schema where others have a say: the host application's alembic, a DBA, a release that was rolled back."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy.orm import Session

from pgqueue import InvalidOption, NotAllowed, SchemaNewer, migrate, revisions
from pgqueue.migrate.steps import Step
from tests import starter
from tests.conftest import scalar
from tests.harness import InThread, wait_for
from tests.project.test_migrations import catalogue

HASHES = Path(__file__).with_name("migrations.sha256")

ENV = """
from alembic import context
with context.config.attributes["engine"].begin() as conn:
    context.configure(connection=conn)
    context.run_migrations()
"""
VERSION = """
import pgqueue.migrate
from alembic import context, op
revision, down_revision = "a1", None
def upgrade():
    op.execute("create table before_it (id bigint)")
    pgqueue.migrate.upgrade({given})
    op.execute("create table after_it (id bigint)")
    assert context.config.attributes["engine"] is not None
    {end}
"""


@pytest.fixture
def engine(empty_dsn: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(empty_dsn))
    yield engine
    engine.dispose()


@pytest.fixture
def run_host(engine: sa.Engine, tmp_path: Path) -> Callable[[str, str], None]:
    """Run the host's own alembic, whose one migration calls `upgrade`."""

    def run(given: str, end: str) -> None:
        (tmp_path / "versions").mkdir()
        (tmp_path / "env.py").write_text(ENV)
        (tmp_path / "versions" / "a1.py").write_text(VERSION.format(given=given, end=end))
        config = Config()
        config.set_main_option("script_location", str(tmp_path))
        config.attributes["engine"] = engine
        command.upgrade(config, "head")

    return run


def tables(dsn: str) -> list[Any]:
    with psycopg.connect(dsn) as conn:
        found = "select to_regclass(name) is not null from unnest(%s::text[]) with ordinality as t(name, n) order by n"
        return [row[0] for row in conn.execute(found, [["before_it", "after_it", "pgqueue.job_live"]]).fetchall()]


@pytest.mark.parametrize("given", ["op.get_bind()", "{dsn!r}"])
def test_a_migration_of_the_hosts_own_alembic_makes_the_schema(
    given: str, run_host: Callable[[str, str], None], empty_dsn: str, dsn: str
) -> None:
    run_host(given.format(dsn=empty_dsn), "pass")
    assert tables(empty_dsn) == [True, True, True]
    assert catalogue(empty_dsn) == catalogue(dsn)


def test_when_the_hosts_migration_fails_the_schema_goes_with_it(
    run_host: Callable[[str, str], None], empty_dsn: str
) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="division"):
        run_host("op.get_bind()", "op.execute('select 1 / 0')")
    assert tables(empty_dsn) == [False, False, False]


def test_a_lent_transaction_stays_open_and_keeps_its_settings(empty_dsn: str) -> None:
    settings = "select current_setting('search_path'), current_setting('lock_timeout')"
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("set search_path = public; set lock_timeout = '7s'")
        assert migrate.upgrade(conn) == (None, migrate.head())
        assert conn.execute(settings).fetchone() == ("public", "7s")
        conn.rollback()
        assert migrate.current(conn) is None
        conn.rollback()
        conn.execute("create schema pgqueue create table attempt ()")
        with pytest.raises(psycopg.errors.DuplicateTable):
            migrate.upgrade(conn)
        assert scalar(conn, "select count(*) from pgqueue.attempt") == 0


def test_sessions_and_autocommit_connections_are_taken_too(engine: sa.Engine, empty_dsn: str) -> None:
    with Session(engine) as session:
        migrate.upgrade(session, "first")
        session.rollback()
        migrate.upgrade(session, "second")
        session.commit()
    with psycopg.connect(empty_dsn, autocommit=True, prepare_threshold=0) as conn:
        migrate.upgrade(conn, "third")
    assert [migrate.current(empty_dsn, name) for name in ("first", "second", "third")] == [None, *[migrate.head()] * 2]


@pytest.fixture
def role_dsn(empty_dsn: str) -> Iterator[str]:
    """The database for a role that may create nothing in it."""
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        role = scalar(conn, "select 'r' || substr(md5(random()::text), 1, 8)")
        conn.execute(f"create role {role} login".encode())
        yield psycopg.conninfo.make_conninfo(empty_dsn, user=role, password="any")
        conn.execute(f"drop owned by {role} cascade; drop role {role}".encode())


def as_admin(dsn: str, statement: str, role_dsn: str) -> None:
    role = psycopg.conninfo.conninfo_to_dict(role_dsn)["user"]
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statement.format(role=role).encode())


@pytest.mark.parametrize("statement", [
    "create schema pgqueue authorization {role}",
    "create schema pgqueue; grant usage, create on schema pgqueue to {role}",
])  # fmt: skip
@pytest.mark.parametrize("by_script", [False, True])
def test_a_schema_made_by_a_dba_is_filled_by_a_role_that_may_make_none(
    empty_dsn: str, role_dsn: str, statement: str, by_script: bool
) -> None:
    with pytest.raises(NotAllowed, match="owner of a schema pgqueue"):
        migrate.upgrade(role_dsn)
    as_admin(empty_dsn, statement, role_dsn)
    if by_script:
        with psycopg.connect(role_dsn) as conn:  # in a transaction of the caller's, as by `psql -1`
            conn.execute(migrate.script().encode())
    else:
        migrate.upgrade(role_dsn)
    assert migrate.current(empty_dsn) == migrate.head()
    assert migrate.upgrade(role_dsn) == (migrate.head(), migrate.head())


def test_a_role_that_may_only_read_finds_nothing_to_do(empty_dsn: str, role_dsn: str) -> None:
    migrate.upgrade(empty_dsn)
    as_admin(
        empty_dsn, "grant usage on schema pgqueue to {role}; grant select on pgqueue.migration to {role}", role_dsn
    )
    assert migrate.upgrade(role_dsn) == (migrate.head(), migrate.head())


def test_a_script_leads_from_one_version_to_the_newest_and_ends_no_transaction(empty_dsn: str, dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        conn.execute(migrate.script(until="0003").encode())
        conn.execute(migrate.script(since="0003").encode())
        conn.rollback()
        assert migrate.current(conn) is None
        conn.execute(migrate.script(until="0003").encode())
        conn.execute(migrate.script(since="0003").encode())
    migrate.upgrade(empty_dsn)  # the partitions
    assert catalogue(empty_dsn) == catalogue(dsn)
    with pytest.raises(InvalidOption, match="give one of 0001, 0002"):
        migrate.script(since="3")


def test_a_schema_of_a_newer_release_is_left_alone_and_says_so_in_a_line(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("update pgqueue.migration set version_num = '9999'")
        with pytest.raises(SchemaNewer, match="version 9999"):
            migrate.upgrade(dsn)
        with pytest.raises(SchemaNewer), conn.transaction():
            migrate.upgrade(conn)
    assert migrate.current(dsn) == "9999"
    for option in ([], ["--check"]):
        migrating = ["migrate", "--dsn", dsn, *option]
        done = starter.run(*migrating)
        assert done.returncode == SchemaNewer.exit_code == 79
        assert len(done.stderr.splitlines()) == 1
    entrypoint = '"$@" || [ $? -eq 79 ]'  # as in operations.md
    pgqueue = [sys.executable, "-m", "pgqueue", *migrating]
    assert subprocess.run(["sh", "-c", entrypoint, "sh", *pgqueue], capture_output=True, timeout=60).returncode == 0


def test_a_migrator_waits_for_another_one_whatever_its_role_has_set(empty_dsn: str, dsn: str) -> None:
    settings = (
        "-c lock_timeout=1ms -c statement_timeout=2s -c default_transaction_isolation=serializable "
        "-c standard_conforming_strings=off -c search_path=nowhere -c datestyle=SQL,DMY -c timezone=Asia/Kolkata"
    )
    hasty = psycopg.conninfo.make_conninfo(empty_dsn, options=settings)
    with psycopg.connect(empty_dsn) as first, psycopg.connect(empty_dsn, autocommit=True) as observer:
        migrate.upgrade(first)
        second = InThread(lambda: migrate.upgrade(hasty))
        waits = "select count(*) from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
        wait_for(lambda: scalar(observer, waits, first.info.backend_pid), "the second to wait for the first")
        first.commit()
        assert second.result() == (migrate.head(), migrate.head())
    migrate.upgrade(hasty, "another")
    assert catalogue(empty_dsn, "another") == catalogue(dsn)


def test_a_migrator_that_pauses_outlives_the_idle_timeout_of_its_role(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine takes its time between two statements. Where the timeout held, the session would be gone."""
    hasty = psycopg.conninfo.make_conninfo(empty_dsn, options="-c idle_in_transaction_session_timeout=500ms")
    mine = "from pg_stat_activity where application_name = 'pgqueue migrate'"

    class Stopped(Exception):
        pass

    def after_a_pause(*_: object, **__: object) -> str:
        with psycopg.connect(empty_dsn, autocommit=True) as observer:
            overdue = f"select count(*) = 0 or bool_and(state_change < now() - interval '0.7 s') {mine}"
            wait_for(lambda: scalar(observer, overdue), "the timeout to pass")
            assert scalar(observer, f"select array_agg(state) {mine}") == ["idle in transaction"]
        raise Stopped

    monkeypatch.setattr(Step, "sql", after_a_pause)
    with pytest.raises(Stopped):
        migrate.upgrade(hasty)


def drops(engine: sa.Engine, **options: Any) -> set[str]:
    """The tables that the host's autogenerate would drop, with their schemas."""
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"include_schemas": True, **options})
        changes = compare_metadata(context, sa.MetaData())
    return {change[1].fullname for change in changes if change[0] == "remove_table"}


@pytest.mark.filterwarnings("ignore")  # SQLAlchemy's own, about domains and expression indexes
@pytest.mark.parametrize("schema", ["pgqueue", "other"])
def test_the_hosts_autogenerate_leaves_pgqueue_alone(schema: str, engine: sa.Engine) -> None:
    with engine.begin() as conn:
        # Reading the whole schema would take long: it has a partition for each day.
        conn.execute(sa.text(f"create schema {schema} create table job_live (id int) create table worker (id int)"))
        conn.execute(sa.text("create table public.theirs (id int)"))
    ours = {f"{schema}.job_live", f"{schema}.worker"}
    for filter_ in (migrate.include_name, migrate.include_object):
        name = filter_.__name__
        assert drops(engine, **{name: partial(filter_, schema=schema)}) == {"theirs"}
        assert drops(engine, **{name: filter_}) == {"theirs"} | (ours if schema == "other" else set())


def written_by(path: Path) -> str:
    """The SQL of one migration."""
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    statements: list[str] = []
    context = SimpleNamespace(opts={"pgqueue_schema": '"pgqueue"'})
    vars(module)["op"] = SimpleNamespace(execute=statements.append, get_context=lambda: context)
    module.upgrade()
    return ";\n".join(statements)


def test_a_migration_that_has_landed_does_what_it_did() -> None:
    """Databases have run it. Its prose may change; its SQL may not: add a migration that changes what it made."""
    found = "".join(
        f"{hashlib.sha256(written_by(path).encode()).hexdigest()}  {path.name}\n"
        for path in sorted((revisions.directory() / "versions").glob("*.py"))
    )
    assert found == HASHES.read_text(), f"a line for a new migration belongs into {HASHES.name}; no other line changes"
