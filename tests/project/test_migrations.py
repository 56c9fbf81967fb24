"""From an empty database to the newest schema, by upgrade() or by script(), in any schema, by many at once."""

import asyncio
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App, ConfigError, NotMigrated, db, migrate, revisions
from pgqueue.queries import Queries
from tests.conftest import DEADLINE, EMPTY, Databases, drain, scalar, work
from tests.harness import InThread, Process, wait_for

Conn = psycopg.Connection[Any]

CATALOGUE = {
    "columns": """select table_name, column_name, data_type, is_nullable, column_default from information_schema.columns
                  where table_schema = %(schema)s""",
    "indexes": "select indexname, indexdef from pg_indexes where schemaname = %(schema)s",
    "constraints": """select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
                      where connamespace = %(schema)s::regnamespace and contype <> 'n'""",
    "views": "select viewname, definition from pg_views where schemaname = %(schema)s",
    "functions": """select proname, pg_get_functiondef(oid), proacl::text from pg_proc
                    where pronamespace = %(schema)s::regnamespace""",
    "sequences": "select sequencename, data_type::text from pg_sequences where schemaname = %(schema)s",
    "options": """select relname, reloptions from pg_class where relnamespace = %(schema)s::regnamespace
                  and relkind in ('r', 'p')""",
    "comments": """select objoid::regclass::text, description from pg_description join pg_class c on c.oid = objoid
                   where relnamespace = %(schema)s::regnamespace""",
}


def catalogue(dsn: str, schema: str = "pgqueue") -> dict[str, list[str]]:
    """Return all that a schema holds, as text without its name."""
    with psycopg.connect(dsn) as conn:
        found = {kind: conn.execute(query, {"schema": schema}).fetchall() for kind, query in CATALOGUE.items()}
    # The setting has its name in every schema.
    named = {kind: [repr(row).replace("pgqueue.notify", "NOTIFY") for row in rows] for kind, rows in found.items()}
    return {kind: sorted(row.replace(schema, "SCHEMA") for row in rows) for kind, rows in named.items()}


def test_an_empty_database_is_brought_to_the_newest_version(empty_dsn: str) -> None:
    assert migrate.current(empty_dsn) is None
    assert migrate.upgrade(empty_dsn) == (None, migrate.head())
    assert migrate.current(empty_dsn) == migrate.head()


def test_upgrading_again_changes_nothing(empty_dsn: str) -> None:
    migrate.upgrade(empty_dsn)
    before = catalogue(empty_dsn)
    assert migrate.upgrade(empty_dsn) == (migrate.head(), migrate.head())
    assert catalogue(empty_dsn) == before


def test_four_processes_that_upgrade_at_once_all_succeed(empty_dsn: str) -> None:
    code = "import sys; from pgqueue import migrate; print(migrate.upgrade(sys.argv[1])[1])"
    processes = [subprocess.Popen([sys.executable, "-c", code, empty_dsn], stdout=subprocess.PIPE) for _ in range(4)]
    printed = [process.communicate(timeout=DEADLINE)[0].decode().strip() for process in processes]
    assert printed == [migrate.head()] * 4
    with psycopg.connect(empty_dsn) as conn:
        assert scalar(conn, "select count(*) from pgqueue.migration") == 1


def test_four_threads_that_upgrade_at_once_all_succeed(empty_dsn: str) -> None:
    barrier = threading.Barrier(4)

    def upgrade() -> Any:
        barrier.wait()
        return migrate.upgrade(empty_dsn)[1]

    assert [thread.result() for thread in [InThread(upgrade) for _ in range(4)]] == [migrate.head()] * 4


def test_an_upgrade_that_fails_leaves_nothing_behind(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create schema pgqueue create table attempt ()")
        with pytest.raises(Exception, match="attempt"):
            migrate.upgrade(empty_dsn)
        assert scalar(conn, "select count(*) from pg_tables where schemaname = 'pgqueue'") == 1
    assert migrate.current(empty_dsn) is None


def test_a_migrator_that_was_killed_in_the_middle_leaves_nothing_in_the_way_of_the_next(
    empty_dsn: str, dsn: str, tmp_path: Path
) -> None:
    with psycopg.connect(empty_dsn) as holder, psycopg.connect(empty_dsn, autocommit=True) as observer:
        observer.execute("create schema pgqueue")
        holder.execute("create table pgqueue.queue (name int)")  # not committed: a second creation must wait
        waiting = "select pid from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
        with Process(tmp_path, empty_dsn, "migrate") as migrator:
            migrator.alive_until(lambda: scalar(observer, waiting, holder.info.backend_pid), "it to be in the middle")
            left = scalar(observer, waiting, holder.info.backend_pid)
            migrator.kill()
        following = InThread(lambda: migrate.upgrade(empty_dsn))
        wait_for(lambda: scalar(observer, waiting, left), "the next migrator to wait for what the dead one left")
        holder.rollback()
    assert following.result() == (None, migrate.head())
    assert catalogue(empty_dsn) == catalogue(dsn)


def test_a_worker_goes_on_while_an_upgrade_runs_beside_it(app: App, conn: Conn, dsn: str) -> None:
    @app.task(name="t")
    async def t(n: int) -> None:
        if n == 0:
            assert await asyncio.to_thread(migrate.upgrade, dsn) == (migrate.head(), migrate.head())

    ids = t.enqueue_many({"n": n} for n in range(20))
    drain(app, conn)
    assert scalar(conn, "select count(*) from pgqueue.job where state = 'succeeded' and attempt = 1") == len(ids)


def test_the_script_builds_what_an_upgrade_builds(empty_dsn: str, dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(migrate.script().encode())
        db.run(conn, Queries("pgqueue").partitions.make())
        db.run(conn, Queries("pgqueue").schema.validate())
    assert catalogue(empty_dsn) == catalogue(dsn)
    assert migrate.current(empty_dsn) == migrate.head()
    assert migrate.upgrade(empty_dsn) == (migrate.head(), migrate.head())


def test_the_catalogue_that_is_compared_is_not_empty(dsn: str) -> None:
    found = catalogue(dsn)
    assert {kind for kind, rows in found.items() if rows} == set(CATALOGUE)
    assert any("job_live_ready" in row for row in found["indexes"])


def test_the_database_of_a_module_is_emptied_of_every_row_and_its_numbers_begin_anew(conn: Conn) -> None:
    kept = "select relname from pg_class where relnamespace = 'pgqueue'::regnamespace and not relispartition"
    tables = {name for (name,) in conn.execute(f"{kept} and relkind in ('r', 'p')").fetchall()}
    sequences = {name for (name,) in conn.execute(f"{kept} and relkind = 'S'").fetchall()}
    assert set(re.findall(r"delete from pgqueue\.(\w+);", EMPTY.decode())) == tables - {"migration"}
    assert set(re.findall(r"'(\w+)'", EMPTY.decode())) == sequences


def test_another_schema_works_beside_the_first(dsn: str) -> None:
    migrate.upgrade(dsn, "other_one")
    first, second = catalogue(dsn), catalogue(dsn, "other_one")
    assert second == first
    with psycopg.connect(dsn) as conn:
        conn.execute("insert into other_one.job_live (task, queue) values ('t', 'q')")
        assert scalar(conn, "select count(*) from pgqueue.job") == 0
        assert scalar(conn, "select count(*) from other_one.job") == 1
    app = App(dsn, schema="other_one")
    job = app.task(name="t", queue="q")(lambda: "ran").enqueue()
    with psycopg.connect(dsn, autocommit=True) as conn:
        asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 2 from other_one.job_finished"), queues=["q"]))
        assert app.get(job.id).result == "ran"
        assert scalar(conn, "select count(*) from pgqueue.job") == 0
    app.close()


@pytest.mark.parametrize("schema", ["order", "user", "select"])
def test_a_schema_called_like_a_keyword_works_or_is_refused_with_a_reason(empty_dsn: str, schema: str) -> None:
    try:
        migrate.upgrade(empty_dsn, schema)
    except ConfigError:
        return
    assert migrate.current(empty_dsn, schema) == migrate.head()


@pytest.mark.parametrize("schema", ["", "Upper", "a b", 'a"b', "1a", "pg_mine", "a" * 49, "a;drop table x"])
def test_a_schema_name_that_cannot_be_used_is_refused_before_anything_is_done(empty_dsn: str, schema: str) -> None:
    with pytest.raises(ConfigError):
        migrate.upgrade(empty_dsn, schema)


def test_the_version_table_of_a_host_application_is_left_alone(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create table public.alembic_version (version_num text); insert into alembic_version values ('h')")
        migrate.upgrade(empty_dsn)
        assert scalar(conn, "select string_agg(version_num, ',') from public.alembic_version") == "h"
        assert scalar(conn, "select count(*) from pg_tables where schemaname = 'public'") == 1


@pytest.mark.usefixtures("same_day")
def test_partitions_of_yesterday_today_and_the_week_ahead_stand_after_an_upgrade(conn: Conn) -> None:
    days = "select (now() at time zone 'UTC')::date + d from generate_series(-1, 7) as d"
    for parent in ("transition", "job_finished"):
        for (day,) in conn.execute(days).fetchall():
            name = f"pgqueue.{parent}_{day:%Y%m%d}"
            assert scalar(conn, "select relispartition from pg_class where oid = to_regclass(%s)", name), name


def test_a_database_that_was_not_migrated_says_so(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn, pytest.raises(NotMigrated, match="pgqueue migrate"):
        db.run(conn, Queries("pgqueue").schema.check())


JOB = {"task": "t", "queue": "q"}
RUNNING = {"state": "running", "attempt": 1, "worker_id": uuid4(), "claimed_at": "2026-01-01"}
SCHEDULE = {"name": "s", "task": "t", "queue": "q", "every_seconds": 60, "next_tick": "2026-01-01"}
WORKER = {"id": uuid4(), "kind": "worker", "host": "h", "pid": 1, "version": "0", "queues": [], "tasks": [], "slots": 8,
          "lease_seconds": 30}  # fmt: skip
KEY = {"key": uuid4(), "request": 1, "job_id": 1, "expires_at": "2999-01-01"}
FIRE = {"schedule": "s", "tick": "2026-01-01", "outcome": "fired", "job_id": 1}
TRANSITION = {"job_id": 1, "to_state": "pending"}
FINISHED = {"id": 1, "state": "succeeded"} | JOB
RELEASE = {"id": uuid4(), "app": "a", "release": "r", "names": []}
DEAD = {"id": 1, "reason": "why"} | JOB

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("job_live", JOB), ("job_live", JOB | RUNNING), ("job_live", JOB | {"state": "blocked", "waits_for": "task"}),
    ("schedule", SCHEDULE), ("worker", WORKER), ("idempotency_key", KEY), ("schedule_fire", FIRE),
    ("transition", TRANSITION), ("job_finished", FINISHED), ("dead_letter", DEAD), ("queue", {"name": "q"}),
    ("schedule_release", RELEASE),
]  # fmt: skip
BAD: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("job_live", JOB, {"task": ""}),
    ("job_live", JOB, {"task": "t" * 201}),
    ("job_live", JOB, {"queue": ""}),
    ("job_live", JOB, {"queue": "q" * 101}),
    ("job_live", JOB, {"priority": 101}),
    ("job_live", JOB, {"priority": -101}),
    ("job_live", JOB, {"args": "[]"}),
    ("job_live", JOB, {"headers": "1"}),
    ("job_live", JOB, {"max_attempts": 0}),
    ("job_live", JOB, {"attempt": -1}),
    ("job_live", JOB, {"attempt": 20}),
    ("job_live", JOB, {"crash_count": -1}),
    ("job_live", JOB, {"lease": -1}),
    ("job_live", JOB, {"state": "succeeded"}),
    ("job_live", JOB, {"state": "blocked"}),
    ("job_live", JOB, {"waits_for": "task"}),
    ("job_live", JOB, {"state": "blocked", "waits_for": "nothing known"}),
    ("job_live", JOB, {"worker_id": uuid4()}),
    ("job_live", JOB, {"claimed_at": "2026-01-01"}),
    ("job_live", JOB | RUNNING, {"worker_id": None}),
    ("job_live", JOB | RUNNING, {"claimed_at": None}),
    ("job_live", JOB | RUNNING, {"attempt": 21}),
    ("job_finished", FINISHED, {"state": "failed"}),
    ("dead_letter", DEAD, {"state": "succeeded"}),
    ("transition", TRANSITION, {"from_state": "lost"}),
    ("transition", TRANSITION, {"to_state": "lost"}),
    ("schedule", SCHEDULE, {"name": ""}),
    ("schedule", SCHEDULE, {"name": "n" * 201}),
    ("schedule", SCHEDULE, {"task": ""}),
    ("schedule", SCHEDULE, {"queue": ""}),
    ("schedule", SCHEDULE, {"args": "[]"}),
    ("schedule", SCHEDULE, {"cron": "* * * * *"}),
    ("schedule", SCHEDULE, {"every_seconds": None}),
    ("schedule", SCHEDULE, {"every_seconds": 0}),
    ("schedule", SCHEDULE, {"priority": 101}),
    ("schedule", SCHEDULE, {"max_attempts": 0}),
    ("schedule_fire", FIRE, {"outcome": "lost"}),
    ("schedule_fire", FIRE, {"job_id": None}),
    ("schedule_fire", FIRE, {"outcome": "missed"}),
    ("queue", {}, {"name": ""}),
    ("queue", {}, {"name": "q" * 101}),
    ("worker", WORKER, {"kind": "other"}),
    ("worker", WORKER, {"slots": -1}),
    ("worker", WORKER, {"lease_seconds": 0}),
    ("worker", WORKER, {"lease_seconds": float("inf")}),
    ("worker", WORKER, {"lease_seconds": float("nan")}),
    ("worker", WORKER, {"heartbeat_at": "infinity"}),
    ("schedule_release", RELEASE, {"seen_at": "infinity"}),
    ("schedule_release", RELEASE, {"since": "infinity"}),
]


def insert(conn: Conn, table: str, columns: dict[str, Any]) -> None:
    values = ", ".join(f"%({name})s" for name in columns)
    conn.execute(f"insert into pgqueue.{table} ({', '.join(columns)}) values ({values})", columns)


@pytest.fixture(scope="module")
def shared(server_dsn: str, template: str) -> Iterator[str]:
    databases = Databases(server_dsn)
    yield databases.make(template)
    databases.drop_all()


@pytest.mark.parametrize(("table", "columns"), GOOD)
def test_a_good_row_is_taken(shared: str, table: str, columns: dict[str, Any]) -> None:
    with psycopg.connect(shared) as conn:
        insert(conn, table, columns)
        conn.rollback()


@pytest.mark.parametrize(("table", "columns", "change"), BAD)
def test_a_bad_row_is_refused(shared: str, table: str, columns: dict[str, Any], change: dict[str, Any]) -> None:
    with psycopg.connect(shared) as conn, pytest.raises(psycopg.errors.CheckViolation):
        insert(conn, table, columns | change)


def test_rows_beyond_the_bounds_are_mended_and_their_queue_goes_on(dsn: str) -> None:
    """A job at the end of a number failed each claim of its queue; a worker with an endless lease was never lost."""
    statements = runpy.run_path(str(revisions.directory() / "versions" / "0009_pinned_functions_and_bounds.py"))
    with psycopg.connect(dsn, autocommit=True) as conn:
        for table in ("worker", "schedule_release"):
            conn.execute(f"alter table pgqueue.{table} drop constraint {table}_bounds".encode())
        insert(conn, "job_live", JOB | {"lease": 2**63 - 1})
        insert(conn, "job_live", JOB | RUNNING | {"worker_id": WORKER["id"], "crash_count": 2**31 - 1})
        insert(conn, "job_live", JOB | {"headers": '{"a": 1, "$version": "' + "9" * 4000 + '"}'})
        insert(conn, "worker", WORKER | {"lease_seconds": float("nan"), "heartbeat_at": "2026-01-01"})
        insert(conn, "schedule_release", RELEASE | {"seen_at": "infinity"})
        for statement in statements["STATEMENTS"]:
            conn.execute(statement.format(s="pgqueue").encode())
        queries = Queries("pgqueue")
        db.run(conn, queries.schema.validate())
        assert scalar(conn, "select count(*) from pg_constraint where not convalidated") == 0
        (lost,) = db.run(conn, queries.workers.declare_lost())
        assert lost.id == WORKER["id"]
        assert [job.state for job in db.run(conn, queries.jobs.rescue(None))] == ["failed"]
        assert len(db.run(conn, queries.jobs.claim(uuid4(), {"q": 9}, 9))) == 2
        assert scalar(conn, "select count(*) from pgqueue.schedule_release") == 0


def test_each_function_of_the_schema_pins_its_search_path(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        unpinned = conn.execute(
            "select proname from pg_proc where pronamespace = 'pgqueue'::regnamespace"
            " and not coalesce('search_path=pg_catalog, pg_temp' = any(proconfig), false)"
        ).fetchall()
    assert unpinned == []


STRANGERS = """
create function public.num_nonnulls(text, float8, timestamptz, text) returns int language sql immutable as 'select 1';
create function public.num_nonnulls(timestamptz, timestamptz) returns int language sql immutable as 'select 2';
create function public.nextval(text) returns bigint language sql as 'select 7::bigint';
create operator public.->> (leftarg = jsonb, rightarg = jsonb, function = public.arrow)"""


def test_a_migration_takes_nothing_of_a_stranger_into_the_schema(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create function public.arrow(jsonb, jsonb) returns text language sql immutable as 'select ''1'''")
        conn.execute(STRANGERS)
        migrate.upgrade(make_conninfo(empty_dsn, options="-c search_path=public"))
        taken = conn.execute(
            "select d.classid::regclass, d.objid, p.proname from pg_depend d"
            " join pg_proc p on p.oid = d.refobjid and d.refclassid = 'pg_proc'::regclass"
            " join pg_namespace n on n.oid = p.pronamespace"
            " where n.nspname = 'public' and d.classid <> 'pg_operator'::regclass"
        ).fetchall()
    assert taken == []
