"""Connections of Django and asyncpg: which of them `using()` takes, which it refuses, and with which message."""

import asyncio
import contextlib
import subprocess
import sys
from typing import Any

import asyncpg
import psycopg
import pytest
from django.conf import settings
from django.db import connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.db.utils import ConnectionHandler

from pgqueue import App, NotAllowed, NotMigrated, UnknownJob, UnsupportedConnection
from pgqueue.db.asyncpg import numbered
from pgqueue.queries import Queries
from tests.callers import for_asyncpg
from tests.conftest import scalar
from tests.django_site import django_on
from tests.harness import Conn

JOBS = "select array_agg(task order by id) from pgqueue.job"


def test_django_jobs_belong_to_the_atomic_block_they_were_enqueued_in(dsn: str, app: App, conn: Conn) -> None:
    with django_on(dsn):
        with transaction.atomic():
            app.using(connection).enqueue("kept")
            with transaction.atomic():
                app.using(connections["default"]).enqueue("inner")
                transaction.set_rollback(True)
            assert scalar(conn, JOBS) is None
        with transaction.atomic():
            app.using(connection).enqueue("outer")
            transaction.set_rollback(True)
        app.using(connection).enqueue("at once")
        assert scalar(conn, JOBS) == ["kept", "at once"]


def test_a_block_in_which_an_error_of_ours_was_caught_does_not_commit(empty_dsn: str, app: App) -> None:
    with django_on(empty_dsn), connection.cursor() as cursor:
        cursor.execute("create table orders (id int)")
        with pytest.raises(TransactionManagementError), transaction.atomic():  # noqa: PT012
            with contextlib.suppress(NotMigrated):
                app.using(connection).enqueue("t")
            cursor.execute("insert into orders values (1)")
        with transaction.atomic():
            cursor.execute("insert into orders values (2)")
            with contextlib.suppress(NotMigrated), transaction.atomic():
                app.using(connection).get(1)
        cursor.execute("select array_agg(id) from orders")
        assert cursor.fetchone() == ([2],)


def test_django_without_time_zones_reads_and_makes_schedules(dsn: str, app: App, conn: Conn) -> None:
    with django_on(dsn) as wrapper:
        settings.USE_TZ = False
        try:
            wrapper.close()
            client = app.schedules.using(connection)
            made = client.create("s", "t", "0 6 * * *")
            assert made.next_tick is not None
            assert made.next_tick.tzinfo is not None
            assert client.run("s").run_at.tzinfo is not None
            assert app.using(connection).enqueue("t").created_at.tzinfo is not None
        finally:
            settings.USE_TZ = True


def test_django_s_connection_serves_the_other_verbs(dsn: str, app: App, conn: Conn) -> None:
    with django_on(dsn), transaction.atomic():
        client = app.using(connection)
        job = client.enqueue("t", {"x": {"y": [1]}})
        assert (client.get(job.id).args, client.get(job.id).created_at) == ({"x": {"y": [1]}}, job.created_at)
        assert client.cancel(job.id)
        with connection.cursor() as cursor:
            cursor.execute("select state from pgqueue.job")
            assert cursor.fetchone() == ("cancelled",)


def test_django_on_another_database_is_refused_with_its_name(app: App) -> None:
    other = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})["default"]
    with pytest.raises(UnsupportedConnection, match=r"'default' leads to sqlite, not to PostgreSQL"):
        app.using(other).enqueue("t")
    assert other.connection is None


def test_django_on_psycopg2_is_refused_and_the_error_names_the_remedy(
    dsn: str, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    with django_on(dsn) as wrapper:
        wrapper.ensure_connection()
        monkeypatch.setattr(psycopg.Connection, "__module__", "psycopg2.extensions")
        with pytest.raises(UnsupportedConnection, match=r"uses psycopg2.*: install psycopg \(version 3\)"):
            app.using(connection).enqueue("t")


def test_django_with_an_async_verb_says_how_it_is_done(dsn: str, app: App) -> None:
    with django_on(dsn), pytest.raises(UnsupportedConnection, match="in a function that sync_to_async runs"):
        asyncio.run(app.using(connection).aenqueue("t"))  # type: ignore[arg-type]


def test_neither_django_nor_asyncpg_is_imported_to_recognise_a_connection(dsn: str) -> None:
    code = (
        "import sys, psycopg, pgqueue\n"
        f"with psycopg.connect({dsn!r}) as conn: pgqueue.App().using(conn).enqueue('t')\n"
        "try: pgqueue.App().using(object()).enqueue('t')\n"
        "except pgqueue.UnsupportedConnection: pass\n"
        "print([m for m in ('django', 'asyncpg', 'sqlalchemy', 'pytest', 'pgqueue.testing') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_asyncpg_serves_the_verbs_of_a_caller(dsn: str, app: App, conn: Conn) -> None:
    @app.task(tags=["é", 'q"'])
    def ship(order_id: int, note: str = "") -> None: ...

    async def check() -> None:
        borrowed = await asyncpg.connect(**for_asyncpg(dsn))
        verbs = app.using(borrowed)
        job = await ship.using(borrowed, delay=60, priority=5).aenqueue(7, note="100 % \\ $1 'x'\n")
        seen = await verbs.aget(job.id)
        assert (seen.args, seen.tags, seen.priority, seen.phase) == (
            {"order_id": 7, "note": "100 % \\ $1 'x'\n"}, ("é", 'q"'), 5, "scheduled",
        )  # fmt: skip
        assert (seen.run_at, seen.created_at) == (job.run_at, job.created_at)
        assert await verbs.acancel(job.id)
        with pytest.raises(UnknownJob):
            await verbs.acancel(job.id)
        ended = await verbs.aget(job.id)
        assert (ended.state, ended.reason) == ("cancelled", "cancelled by request")
        await borrowed.close()

    asyncio.run(check())


def test_asyncpg_errors_are_the_same_as_elsewhere(dsn: str, empty_dsn: str, app: App, conn: Conn) -> None:
    role = scalar(conn, "select 'r' || substr(md5(random()::text), 1, 8)")
    conn.execute(f"create role {role}".encode())

    async def check() -> None:
        for where, setup, error in (
            (empty_dsn, "select 1", NotMigrated),
            (dsn, f"set role {role}", NotAllowed),
        ):
            borrowed = await asyncpg.connect(**for_asyncpg(where))
            await borrowed.execute(setup)
            with pytest.raises(error):
                await app.using(borrowed).aenqueue("t")
            await borrowed.close()

    try:
        asyncio.run(check())
    finally:
        conn.execute(f"drop role {role}".encode())


def test_an_asyncpg_connection_on_a_sync_verb_says_which_verb_to_use(dsn: str, app: App) -> None:
    async def check() -> None:
        borrowed = await asyncpg.connect(**for_asyncpg(dsn))
        with pytest.raises(UnsupportedConnection, match=r"asyncpg.*goes with aenqueue\(\)"):
            app.using(borrowed).enqueue("t")
        await borrowed.close()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("statement", "params", "expected"),
    [
        (b"select %(a)s, %(b)s::int, %(a)s", {"a": "x", "b": 1}, ("select $1::text, $2::int, $1::text", ("a", "b"))),
        (b"select format('%%s'), 1 %% 2", {}, ("select format('%s'), 1 % 2", ())),
    ],
)
def test_names_become_numbers(statement: bytes, params: dict[str, Any], expected: Any) -> None:
    texts = frozenset(name for name, value in params.items() if isinstance(value, str))
    assert numbered(statement, texts) == expected


def test_the_same_shape_of_arguments_is_translated_once() -> None:
    query = Queries("pgqueue").jobs.get(1)
    assert numbered(query.sql, frozenset()) is numbered(query.sql, frozenset())
