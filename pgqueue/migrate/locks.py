"""Locks that a migration waits for: briefly, and again. Whoever waits for a table makes all others wait behind it."""

import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

from pgqueue.errors import MigrationBlocked

LOCK_TIMEOUT = "2s"  # how long one try may hold up those who write
TRIES = 5
PAUSE = 1.0  # seconds between two tries, in which the others go on
T = TypeVar("T")


def retrying(what: str, work: Callable[[], T]) -> T:
    """Return what `work` returns, which is a transaction: tried again where a lock cannot be had in time.

    Raises MigrationBlocked after the last try.
    """
    for tried in range(TRIES):
        try:
            return work()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if tried < TRIES - 1:
                time.sleep(PAUSE)
    raise MigrationBlocked(blocked(f"{what} was not done", f"{TRIES} times for {LOCK_TIMEOUT}"))


def blocked(end: str, how_long: str) -> str:
    """Return what to say where a table cannot be locked."""
    return (
        f"a transaction has held a lock on pgqueue's tables {how_long}, and {end}: "
        "run `pgqueue migrate` again when it has ended (pg_stat_activity shows it)"
    )
