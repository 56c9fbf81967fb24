"""Recognising connections of frameworks and other drivers without importing them."""

import sys
from typing import Any

from psycopg.pq import TransactionStatus

from pgqueue.errors import NotMigrated, UnsupportedConnection


def is_of(conn: object, module: str, name: str) -> bool:
    """Whether `conn` is an instance of a class of another library. Only modules that are imported already count."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(conn, kind)


def is_django(conn: object) -> bool:
    """Whether `conn` is `connections["…"]` of Django, or `django.db.connection`, its proxy for the default one."""
    return is_of(conn, "django.db.backends.base.base", "BaseDatabaseWrapper") or is_of(
        conn, "django.utils.connection", "ConnectionProxy"
    )


def in_django(conn: Any) -> object:
    """Return the driver's connection inside one of Django's, and open it if needed. Raises UnsupportedConnection.

    Django's `atomic` turns the driver's autocommit off, so that the driver begins a transaction with the first
    statement, also with one of ours.
    """
    if getattr(conn, "vendor", None) != "postgresql":
        raise UnsupportedConnection(
            f"Django's connection {getattr(conn, 'alias', '?')!r} leads to {getattr(conn, 'vendor', 'no database')}, "
            "not to PostgreSQL: give one that leads there, using(connections['…'])"
        )
    conn.ensure_connection()
    driver: object = conn.connection
    if type(driver).__module__.startswith("psycopg2"):
        raise UnsupportedConnection(
            f"Django's connection {conn.alias!r} uses psycopg2, on which pgqueue cannot enqueue: install psycopg "
            "(version 3), which Django 4.2 and later prefer to psycopg2"
        )
    return driver


def tell_django(conn: Any, error: BaseException) -> None:
    """Let Django know that a statement of ours has failed its transaction, if `conn` is Django's.

    Otherwise a caller that catches the error leaves `atomic` as if all were well, and COMMIT rolls back in silence.
    Raises NotMigrated anew where Django's `migrate` makes our tables: with that as the remedy.
    """
    if not is_django(conn):
        return
    if conn.connection is not None and conn.in_atomic_block:
        conn.needs_rollback |= conn.connection.info.transaction_status == TransactionStatus.INERROR
    apps = sys.modules["django.apps"].apps
    if isinstance(error, NotMigrated) and apps.is_installed("pgqueue.django"):
        raise apps.get_app_config("pgqueue").named(error) from None


def is_asyncpg(conn: object) -> bool:
    """Whether `conn` is an asyncpg connection, from a pool or not."""
    return is_of(conn, "asyncpg.connection", "Connection") or is_of(conn, "asyncpg.pool", "PoolConnectionProxy")


def commits_at_once(conn: Any) -> bool:
    """Whether this is a connection of Django outside of `atomic`, where each statement commits by itself."""
    if not is_django(conn) or conn.in_atomic_block:
        return False
    # `get_autocommit()` would connect, which Django forbids wherever an event loop runs.
    return bool(conn.settings_dict["AUTOCOMMIT"] if conn.connection is None else conn.autocommit)
