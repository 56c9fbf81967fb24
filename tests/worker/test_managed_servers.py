"""pgqueue where a provider and a DBA have set all they may: its owner is no superuser, and has odd settings."""

import asyncio
import uuid
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgqueue import App, Context, DeadFilter, Limit, Unique, chord, migrate
from pgqueue.cli.status import read_status
from pgqueue.doctor import Severity, examine
from pgqueue.schedules.plan import Every
from tests.conftest import Databases, scalar, work
from tests.harness import Conn
from tests.scheduler.ticking import declare, fire, now, ticks
from tests.statements.test_settings import ODD
from tests.statements.test_turn_claims import EXCESS

# Of the role. The timeouts are short, and longer than any statement of these few jobs takes on a busy machine.
OF_ROLE = {
    "default_transaction_deferrable": "on",
    "idle_in_transaction_session_timeout": "5s",
    "jit": "on",
    "jit_above_cost": "0",
    "lock_timeout": "1s",
    "row_security": "off",
    "search_path": "decoy, public",
    "statement_timeout": "5s",
    "timezone": "America/St_Johns",
}
PROFILES = {
    "serializable": {"default_transaction_isolation": "serializable", "plan_cache_mode": "force_custom_plan"},
    "repeatable": {"default_transaction_isolation": "repeatable read", "plan_cache_mode": "force_generic_plan"},
}


def configure(conn: Conn, change: sql.Composable, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        # A list is a list only without quotes.
        shown = sql.SQL(value) if name == "search_path" else sql.Literal(value)
        conn.execute(sql.SQL("alter {} set {} = {}").format(change, sql.Identifier(name), shown))


@pytest.fixture(scope="module", params=sorted(PROFILES))
def managed(server_dsn: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The DSN of the role that owns a database, migrated by it."""
    databases, role = Databases(server_dsn), f"managed_{uuid.uuid4().hex[:12]}"
    dsn = databases.make()
    mine = make_conninfo(dsn, user=role)
    with psycopg.connect(dsn, autocommit=True) as conn:
        names = {"role": sql.Identifier(role), "database": sql.Identifier(conn.info.dbname)}
        conn.execute(sql.SQL("create role {role} login nosuperuser nocreatedb nocreaterole").format(**names))
        conn.execute(sql.SQL("alter database {database} owner to {role}").format(**names))
        configure(conn, sql.SQL("database {database}").format(**names), ODD)
        configure(conn, sql.SQL("role {role}").format(**names), OF_ROLE | PROFILES[request.param])
        try:
            migrate.upgrade(mine)
            yield mine
        finally:
            databases.drop_all()
            with psycopg.connect(server_dsn, autocommit=True) as admin:
                admin.execute(sql.SQL("drop role {role}").format(**names))


@pytest.fixture
def dsn(managed: str) -> str:
    return managed


@pytest.fixture
def done() -> list[Any]:
    """What the tasks have seen."""
    return []


@pytest.fixture
def tasks(app: App, done: list[Any]) -> SimpleNamespace:
    """The tasks of these tests."""

    @app.task(name="keep")
    async def keep(value: Any) -> Any:
        done.append(value)
        return value

    @app.task(name="again", retry=[0.01], max_attempts=2)
    def again(ctx: Context, mended_at: int) -> int:
        if ctx.attempt < mended_at:
            raise ConnectionError("not yet")
        with ctx.transaction() as conn:
            done.append(scalar(conn, "select current_setting('statement_timeout')"))
        return ctx.attempt

    @app.task(name="metered", limit=Limit(2), result_ttl=60)
    async def metered(n: int) -> int:
        done.append(n)
        return n

    return SimpleNamespace(keep=keep, again=again, metered=metered)


def run(app: App, conn: Conn) -> None:
    """Run a worker until nothing is left to do."""
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live"), poll_seconds=0.2))


def test_jobs_of_own_and_of_lent_connections_run_retry_and_die(
    app: App, conn: Conn, tasks: SimpleNamespace, managed: str, done: list[Any]
) -> None:
    one = tasks.keep.enqueue("own")
    replacing = tasks.keep.using(unique=Unique(while_="pending", on_conflict="replace"), unique_key="u")
    assert replacing.enqueue("replaced").id == replacing.enqueue("unique").id
    for isolation in psycopg.IsolationLevel:
        with psycopg.connect(managed) as lent:
            lent.isolation_level = isolation
            keyed = tasks.keep.using(lent, idempotency_key=isolation.name)
            assert len({keyed.enqueue(isolation.name).id for _ in range(2)}) == 1
    heals, dies = tasks.again.enqueue(2), tasks.again.enqueue(9)
    run(app, conn)
    assert sorted(done) == sorted(["own", "unique", "5s", *(isolation.name for isolation in psycopg.IsolationLevel)])
    assert (app.get(one.id).result, app.get(heals.id).attempt) == ("own", 2)
    assert [dead.id for dead in app.dead.list(DeadFilter(task="again"))] == [dies.id]
    assert app.dead.redrive(DeadFilter(task="again")).done == 1
    run(app, conn)
    assert (
        scalar(conn, "select count(*) from pgqueue.transition where job_id = %s and to_state = 'running'", dies.id) == 4
    )


def test_limits_and_workflows_keep_their_promises(
    app: App, conn: Conn, tasks: SimpleNamespace, done: list[Any]
) -> None:
    flow = chord([tasks.metered.s(n) for n in range(10)], tasks.keep.s()).enqueue()
    run(app, conn)
    assert (flow.state, done.pop(), sorted(done)) == ("succeeded", [*range(10)], [*range(10)])
    assert dict(conn.execute(EXCESS).fetchall()) == {"metered": 2}


@pytest.mark.usefixtures("tasks")
def test_a_schedule_fires(app: App, conn: Conn, managed: str, done: list[Any]) -> None:
    conn.execute("set datestyle = 'ISO'")  # of the test's connection alone: its driver reads no other
    tick = now(conn) - timedelta(seconds=90.5)
    declare(conn, "s", Every(86399.123456789), tick, task="keep", args='{"value": "tick"}')
    fire(app, managed)
    run(app, conn)
    assert (ticks(conn), done) == ([(tick, "fired", True)], ["tick"])
    app.schedules.delete("s")


def test_status_and_the_doctor_find_nothing_that_is_not_so(app: App, conn: Conn) -> None:
    assert read_status(app, 10).partition_faults == []
    found = {finding.id: finding.what for finding in examine(app).findings if finding.severity is not Severity.INFO}
    off = [name for name in ("fsync", "full_page_writes") if scalar(conn, f"show {name}") == "off"]
    assert found == {f"{name.replace('_', '-')}-off": f"{name} is off" for name in off}
