"""Connections of frameworks and other drivers: recognised without importing them."""

import sys
from typing import Any

from pgqueue.errors import UnsupportedConnection


def is_of(conn: object, module: str, name: str) -> bool:
    """Whether `conn` is of a class of a library that the host has imported; we import none for it."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(conn, kind)


def is_django(conn: object) -> bool:
    """Whether `conn` is `connections["…"]` of Django, or `django.db.connection`, which stands for one of them."""
    return is_of(conn, "django.db.backends.base.base", "BaseDatabaseWrapper") or is_of(
        conn, "django.utils.connection", "ConnectionProxy"
    )


def in_django(conn: Any) -> object:
    """Return the driver's connection inside one of Django's, opened if it was not. Raises UnsupportedConnection.

    Django's `atomic` turns the driver's autocommit off; the driver begins with the first statement, also with ours.
    """
    if getattr(conn, "vendor", None) != "postgresql":
        raise UnsupportedConnection(
            f"Django's connection {getattr(conn, 'alias', '?')!r} leads to {getattr(conn, 'vendor', 'no database')}, "
            "not to PostgreSQL: give the one that does, using(connections['…'])"
        )
    conn.ensure_connection()
    driver: object = conn.connection
    if type(driver).__module__.startswith("psycopg2"):
        raise UnsupportedConnection(
            f"Django's connection {conn.alias!r} uses psycopg2, on which pgqueue cannot enqueue: install psycopg "
            "(version 3), which Django 4.2 and later take instead of psycopg2 when both are there"
        )
    return driver


def is_asyncpg(conn: object) -> bool:
    """Whether `conn` is an asyncpg connection, or what an asyncpg pool lends."""
    return is_of(conn, "asyncpg.connection", "Connection") or is_of(conn, "asyncpg.pool", "PoolConnectionProxy")
