"""Workers and schedulers under settings and encodings that a DBA may choose for a role or a database."""

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgqueue import App, db, migrate
from pgqueue.schedules.plan import Every
from tests.conftest import Databases, drain
from tests.harness import Conn
from tests.scheduler.ticking import declare, fire, now, ticks
from tests.statements.test_settings import ODD

GRIN = "\N{GRINNING FACE}"


def tasks(app: App) -> None:
    @app.task(name="echo")
    async def echo(text: str) -> str:
        return text

    @app.task(name="cry", max_attempts=2, retry=[0.0])
    async def cry(text: str) -> None:
        raise ValueError(text)


def ends(conn: Conn) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select task, state, result, error ->> 'message' from pgqueue.job order by id",
    ).fetchall()


def test_jobs_run_where_a_database_has_every_setting_otherwise(dsn: str, conn: Conn, app: App) -> None:
    change = sql.SQL("alter database {} set {} = {}")
    for name, value in ODD.items():
        conn.execute(change.format(*map(sql.Identifier, (conn.info.dbname, name)), sql.Literal(value)))
    tasks(app)
    app.using(tags=["null", "a,b"], idempotency_key="k\\'").enqueue("echo", {"text": GRIN})
    app.enqueue("cry", {"text": "null"})
    tick = now(conn) - timedelta(seconds=90.5)
    declare(conn, "s", Every(86399.123456789), tick, task="echo", args='{"text": "tick"}')
    fire(app, dsn)
    drain(app, conn)
    assert ends(conn)[:2] == [("echo", "succeeded", GRIN, None), ("cry", "failed", None, "null")]
    assert ticks(conn) == [(tick, "fired", True)]
    assert ends(conn)[2:] == [("echo", "succeeded", "tick", None)]
    assert app.schedules.get("s").plan == "every 86399.123456789 s"


def test_a_job_that_another_client_encoding_cannot_say_runs(
    conn: Conn, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    tasks(app)
    job = app.enqueue("echo", {"text": GRIN})
    drain(app, conn)
    assert ends(conn) == [("echo", "succeeded", GRIN, None)]
    assert app.get(job.id).result == GRIN


def test_jobs_run_in_a_database_whose_encoding_lacks_characters(server_dsn: str) -> None:
    databases = Databases(server_dsn)
    dsn = databases.make(encoding="LATIN1")
    migrate.upgrade(dsn)
    app = App(dsn)
    tasks(app)

    @app.task(name="grin")
    async def grin() -> str:
        return GRIN

    with psycopg.connect(make_conninfo(dsn, client_encoding="UTF8"), autocommit=True) as conn:
        app.enqueue("echo", {"text": "\N{LATIN SMALL LETTER E WITH ACUTE}"})
        app.enqueue("grin")
        drain(app, conn)
        (echoed, grinned) = ends(conn)
        assert echoed == ("echo", "succeeded", "\N{LATIN SMALL LETTER E WITH ACUTE}", None)
        assert grinned[:2] == ("grin", "succeeded")
    app.close()
    databases.drop_all()


def test_a_database_without_an_encoding_works(server_dsn: str) -> None:
    databases = Databases(server_dsn)
    dsn = databases.make(encoding="SQL_ASCII")
    migrate.upgrade(dsn)
    assert migrate.current(dsn) == migrate.head()
    app = App(dsn)
    tasks(app)
    with psycopg.connect(make_conninfo(dsn, client_encoding="UTF8"), autocommit=True) as conn:
        app.enqueue("echo", {"text": GRIN})
        drain(app, conn)
        assert ends(conn) == [("echo", "succeeded", GRIN, None)]
    app.close()
    databases.drop_all()


SETTINGS = "select current_setting('statement_timeout'), current_setting('search_path'), current_setting('jit')"


@pytest.mark.parametrize("way", ["environment", "dsn"])
def test_a_duty_has_the_options_of_the_operator_and_pins_the_others(
    dsn: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    options = "-c statement_timeout=4321"
    if way == "environment":
        monkeypatch.setenv("PGOPTIONS", options)
    else:
        dsn = make_conninfo(dsn, options=options)

    async def ask() -> Any:
        async with await db.Database(dsn).connect_duty("test", 10.0) as conn:
            return await (await conn.execute(SETTINGS)).fetchone()

    assert asyncio.run(ask()) == ("4321ms", "pg_catalog,pg_temp", "off")
