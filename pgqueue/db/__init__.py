"""Connections to Postgres, own and borrowed ones, and running statements on them."""

from pgqueue.db.borrow import borrow, borrow_async, borrow_psycopg
from pgqueue.db.connection import (
    AnyAsyncConnection,
    AnyConnection,
    AsyncConnection,
    Connection,
    autocommits,
    run,
    run_async,
)
from pgqueue.db.database import Database
from pgqueue.db.drivers import tell_django
from pgqueue.db.lent import check_open, lend_async
from pgqueue.db.orm import django_connection, is_async, transaction_on, transaction_on_async
from pgqueue.db.pools import Pools

__all__ = [
    "AnyAsyncConnection",
    "AnyConnection",
    "AsyncConnection",
    "Connection",
    "Database",
    "Pools",
    "autocommits",
    "borrow",
    "borrow_async",
    "borrow_psycopg",
    "check_open",
    "django_connection",
    "is_async",
    "lend_async",
    "run",
    "run_async",
    "tell_django",
    "transaction_on",
    "transaction_on_async",
]
