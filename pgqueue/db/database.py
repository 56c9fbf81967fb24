"""Where connections go, and how they are set up."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgqueue.config import describe
from pgqueue.db.connection import CONNECT_TIMEOUT, AsyncConnection, Connection
from pgqueue.errors import DatabaseUnreachable

PLANNING = "-c enable_seqscan=off -c enable_bitmapscan=off -c jit=off"


@dataclass(frozen=True, slots=True)
class Database:
    """Where our own connections go. `prepare`: whether statements may be prepared; PgBouncer may not allow it."""

    dsn: str
    prepare: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What every connection of our own has: autocommit, so that each statement is its own transaction."""
        settings: dict[str, Any] = {"autocommit": True, "connect_timeout": CONNECT_TIMEOUT}
        return settings if self.prepare else settings | {"prepare_threshold": None}

    def connect(self, name: str) -> Connection:
        """Open a connection."""
        with _reachable(self.dsn):
            return psycopg.connect(self.dsn, **self._settings_of(name))

    async def connect_async(self, name: str) -> AsyncConnection:
        """Open an async connection."""
        with _reachable(self.dsn):
            return await psycopg.AsyncConnection.connect(self.dsn, **self._settings_of(name))

    async def connect_duty(self, name: str) -> AsyncConnection:
        """Open the connection of a duty: for statements of ours alone.

        A plan that was made and kept while a table was small reads it whole when it has grown, until it is analysed.
        After each VACUUM the planner thinks again, and of dead entries it knows nothing. So these connections prefer an
        index in its order, whatever a table's size; nor is any statement of ours worth compiling.
        """
        with _reachable(self.dsn):
            return await psycopg.AsyncConnection.connect(self.dsn, **self._settings_of(name) | self._planning())

    def _planning(self) -> dict[str, Any]:
        if not self.prepare:  # each statement is planned anew; and PgBouncer knows no such settings
            return {}
        return {"options": f"{PLANNING} {conninfo_to_dict(self.dsn).get('options') or ''}"}

    def _settings_of(self, name: str) -> dict[str, Any]:
        # A shorter timeout in the DSN stands.
        timeout = {"connect_timeout": CONNECT_TIMEOUT} | conninfo_to_dict(self.dsn)
        return self.settings | {"application_name": name, "connect_timeout": timeout["connect_timeout"]}


@contextmanager
def _reachable(dsn: str) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        raise DatabaseUnreachable(f"cannot connect to {describe(dsn)}: {str(error).strip()}") from error
