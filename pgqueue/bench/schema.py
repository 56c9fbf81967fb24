"""The bench's own schema: made at the start, dropped at the end, and never one that somebody else has made."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from pgqueue import db, migrate
from pgqueue.bench.measure import BenchFailed
from pgqueue.config import check_schema
from pgqueue.db.failures import brief
from pgqueue.errors import ConfigError, NotAllowed, PgqueueError

NAME = "pgqueue bench"
MARKER = "made_by_pgqueue_bench"  # a schema with this table in it is ours, and may be dropped
LOOK: LiteralString = """select to_regnamespace(quote_ident(%(schema)s)) is not null,
to_regclass(quote_ident(%(schema)s) || '.' || quote_ident(%(marker)s)) is not null"""
LOCK: LiteralString = "select pg_try_advisory_lock(hashtext('pgqueue bench'), hashtext(%s))"
LOCK_TIMEOUT = "10s"  # a killed worker may have left a server process that still ends its statement
TABLES = ("job_live", "job_finished", "transition")

Connection = psycopg.Connection[Any]


def check_name(schema: str) -> str:
    """Return a name that the bench may use. The queue's own, by default `pgqueue`, it may not."""
    if check_schema(schema) == "pgqueue":
        raise ConfigError("the bench does not use schema pgqueue, for it drops its schema: give another --schema")
    return schema


@contextmanager
def own_schema(dsn: str, schema: str, say: Callable[[str], None]) -> Iterator[Connection]:
    """Make and migrate the schema, lend a connection, and drop the schema again, whatever happened in between.

    One that an earlier bench has left is dropped first. Raises ConfigError for any other that exists, BenchFailed
    while another bench runs in it, or if it could not be dropped; then `say` told how to do that by hand.
    """
    with db.Database(dsn).connect(NAME) as conn:
        _take(conn, schema, say)
        dropped = False
        try:
            _make(conn, schema)
            migrate.upgrade(dsn, schema)
            yield conn
        finally:
            dropped = _drop_or_say(dsn, schema, say)
        if not dropped:
            raise BenchFailed(f"schema {schema} is left behind")


def _take(conn: Connection, schema: str, say: Callable[[str], None]) -> None:
    # Held until the connection ends: two benches would drop each other's tables.
    if not conn.execute(LOCK, [schema]).fetchone() == (True,):
        raise BenchFailed(f"another pgqueue bench runs in schema {schema}: wait for it, or give another --schema")
    exists, ours = _look(conn, schema)
    if ours:
        say(f"schema {schema} was left by an earlier bench: dropped")
        _drop(conn, schema)
    elif exists:
        raise ConfigError(
            f"schema {schema} exists and was not made by pgqueue bench, which would drop it: give another --schema"
        )


def _make(conn: Connection, schema: str) -> None:
    try:
        with conn.transaction():  # no moment at which the schema is there without its mark
            conn.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
            conn.execute(sql.SQL("create table {} ()").format(sql.Identifier(schema, MARKER)))
    except psycopg.errors.InsufficientPrivilege as error:
        raise NotAllowed(
            f"role {conn.info.user!r} may not make schema {schema} for the bench ({brief(error)}): "
            f"grant create on database {conn.info.dbname} to it, or give another --dsn"
        ) from None


def _look(conn: Connection, schema: str) -> tuple[bool, bool]:
    exists, ours = conn.execute(LOOK, {"schema": schema, "marker": MARKER}).fetchone() or (False, False)
    return bool(exists), bool(ours)


def _drop(conn: Connection, schema: str) -> None:
    """Drop the schema if it is ours."""
    if _look(conn, schema)[1]:
        conn.execute("select set_config('lock_timeout', %s, false)", [LOCK_TIMEOUT])
        conn.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))


def _drop_or_say(dsn: str, schema: str, say: Callable[[str], None]) -> bool:
    """Drop the schema over a new connection, for the old one may be lost; tell what to do if that fails."""
    by_hand = f'drop it by hand: psql -c "drop schema {schema} cascade"'
    try:
        with db.Database(dsn).connect(NAME) as conn:
            _drop(conn, schema)
    except (psycopg.Error, PgqueueError) as error:
        say(f"schema {schema} could not be dropped ({brief(error)}); {by_hand}")
        return False
    except KeyboardInterrupt:
        say(f"schema {schema} was not dropped, for you interrupted that too; {by_hand}")
        raise
    return True


def empty(conn: Connection, schema: str, *tables: str) -> None:
    """Empty tables of the bench's schema: all that hold jobs, unless some are named."""
    names = sql.SQL(", ").join(sql.Identifier(schema, table) for table in tables or TABLES)
    conn.execute(sql.SQL("truncate {}").format(names))


def settle(conn: Connection, schema: str) -> None:
    """Vacuum and analyze the bench's own tables, so that each run begins alike and autovacuum has nothing to do."""
    for table in TABLES:
        conn.execute(sql.SQL("vacuum (analyze) {}").format(sql.Identifier(schema, table)))
