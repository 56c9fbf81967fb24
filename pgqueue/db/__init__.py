"""Connections to Postgres, own and borrowed ones, and running statements on them."""

from pgqueue.db.borrow import borrow, borrow_async
from pgqueue.db.connection import (
    AnyAsyncConnection,
    AsyncConnection,
    Connection,
    all_or_nothing,
    all_or_nothing_async,
    autocommits,
    run,
    run_async,
    savepoint_async,
)
from pgqueue.db.database import Database
from pgqueue.db.pools import Pools

__all__ = [
    "AnyAsyncConnection",
    "AsyncConnection",
    "Connection",
    "Database",
    "Pools",
    "all_or_nothing",
    "all_or_nothing_async",
    "autocommits",
    "borrow",
    "borrow_async",
    "run",
    "run_async",
    "savepoint_async",
]
