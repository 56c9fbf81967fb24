"""The bench's own schema: created at the start, dropped at the end. It refuses a schema that it did not create."""

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
MARKER = "made_by_pgqueue_bench"  # the bench created a schema that has this table, and may drop it
INSPECT: LiteralString = """select to_regnamespace(quote_ident(%(schema)s)) is not null,
to_regclass(quote_ident(%(schema)s) || '.' || quote_ident(%(marker)s)) is not null"""
LOCK: LiteralString = "select pg_try_advisory_lock(hashtext('pgqueue bench'), hashtext(%s))"
LOCK_TIMEOUT = "10s"  # a killed worker may have left a server process that still ends its statement
TABLES = ("job_live", "job_finished", "transition")

Connection = psycopg.Connection[Any]


def check_name(schema: str) -> str:
    """Return the name if the bench may use it. Raises ConfigError for `pgqueue`, the schema of queues by default."""
    if check_schema(schema) == "pgqueue":
        raise ConfigError("the bench drops its schema at the end, so it does not use pgqueue: give another --schema")
    return schema


@contextmanager
def own_schema(dsn: str, schema: str, say: Callable[[str], None]) -> Iterator[Connection]:
    """Create and migrate the schema, yield a connection, and drop the schema again, whatever happened in between.

    A schema that an earlier bench left is dropped first. Raises ConfigError if the schema exists otherwise, BenchFailed
    if another bench runs in it, or if it could not be dropped: then `say` gets the command that drops it by hand.
    """
    with db.Database(dsn).connect(NAME) as conn:
        _lock(conn, schema, say)
        dropped = False
        try:
            _create(conn, schema)
            migrate.upgrade(dsn, schema)
            yield conn
        finally:
            dropped = _drop_or_say(dsn, schema, say)
        if not dropped:
            raise BenchFailed(f"schema {schema} is left behind")


def _lock(conn: Connection, schema: str, say: Callable[[str], None]) -> None:
    # The lock is held until the connection ends: two benches in one schema would drop each other's tables.
    if not conn.execute(LOCK, [schema]).fetchone() == (True,):
        raise BenchFailed(f"another pgqueue bench runs in schema {schema}: wait for it, or give another --schema")
    exists, ours = _inspect(conn, schema)
    if ours:
        say(f"schema {schema} was left by an earlier bench: dropped")
        _drop(conn, schema)
    elif exists:
        raise ConfigError(
            f"schema {schema} exists and was not made by pgqueue bench, which would drop it: give another --schema"
        )


def _create(conn: Connection, schema: str) -> None:
    try:
        with conn.transaction():  # so that the schema never exists without its mark
            conn.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
            conn.execute(sql.SQL("create table {} ()").format(sql.Identifier(schema, MARKER)))
    except psycopg.errors.InsufficientPrivilege as error:
        raise NotAllowed(
            f"role {conn.info.user!r} may not create schema {schema} for the bench ({brief(error)}): "
            f"grant create on database {conn.info.dbname} to it, or give another --dsn"
        ) from None


def _inspect(conn: Connection, schema: str) -> tuple[bool, bool]:
    exists, ours = conn.execute(INSPECT, {"schema": schema, "marker": MARKER}).fetchone() or (False, False)
    return bool(exists), bool(ours)


def _drop(conn: Connection, schema: str) -> None:
    """Drop the schema if the bench created it."""
    if _inspect(conn, schema)[1]:
        conn.execute("select set_config('lock_timeout', %s, false)", [LOCK_TIMEOUT])
        conn.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))


def _drop_or_say(dsn: str, schema: str, say: Callable[[str], None]) -> bool:
    """Drop the schema on a new connection, as the old one may be lost. If that fails, say how to do it by hand."""
    by_hand = f'drop it by hand: psql -c "drop schema {schema} cascade"'
    try:
        with db.Database(dsn).connect(NAME) as conn:
            _drop(conn, schema)
    except (psycopg.Error, PgqueueError) as error:
        say(f"schema {schema} could not be dropped ({brief(error)}); {by_hand}")
        return False
    except KeyboardInterrupt:
        say(f"schema {schema} was not dropped: a second signal interrupted that; {by_hand}")
        raise
    return True


def empty(conn: Connection, schema: str, *tables: str) -> None:
    """Empty the named tables of the bench's schema; without names, all that hold jobs."""
    names = sql.SQL(", ").join(sql.Identifier(schema, table) for table in tables or TABLES)
    conn.execute(sql.SQL("truncate {}").format(names))


def settle(conn: Connection, schema: str) -> None:
    """Vacuum and analyze the bench's own tables, so that runs begin alike and autovacuum has nothing to do."""
    for table in TABLES:
        conn.execute(sql.SQL("vacuum (analyze) {}").format(sql.Identifier(schema, table)))
