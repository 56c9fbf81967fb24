"""The database of an app, and how its own connections are set up."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgqueue.config import describe_dsn
from pgqueue.db.connection import AsyncConnection, Connection
from pgqueue.errors import DatabaseUnreachable

CONNECT_TIMEOUT = 10  # seconds
PLANNING = "-c enable_seqscan=off -c enable_bitmapscan=off -c jit=off"


@dataclass(frozen=True, slots=True)
class Database:
    """A database to connect to. `prepare`: whether statements may be prepared; PgBouncer may not allow it."""

    dsn: str = field(repr=False)  # it may hold a password
    prepare: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of every own connection. With autocommit each statement is a transaction of its own."""
        settings: dict[str, Any] = {"autocommit": True, "connect_timeout": CONNECT_TIMEOUT}
        return settings if self.prepare else settings | {"prepare_threshold": None}

    def connect(self, name: str) -> Connection:
        """Open a connection. `name` is its application_name."""
        with _reachable(self.dsn):
            return psycopg.connect(self.dsn, **self._settings_of(name))

    async def connect_async(self, name: str) -> AsyncConnection:
        """The async twin of `connect`."""
        with _reachable(self.dsn):
            return await psycopg.AsyncConnection.connect(self.dsn, **self._settings_of(name))

    async def connect_duty(self, name: str) -> AsyncConnection:
        """Open the connection of a duty, which runs only pgqueue's statements.

        A plan that Postgres kept while a table was small still reads the whole table after it has grown, until the next
        ANALYZE. Each VACUUM makes Postgres plan anew, without regard to dead index entries. So these connections prefer
        an index in its order, whatever the size of a table. They do not compile: no statement of pgqueue gains by it.
        """
        with _reachable(self.dsn):
            return await psycopg.AsyncConnection.connect(self.dsn, **self._settings_of(name) | self._planning())

    def _planning(self) -> dict[str, Any]:
        if not self.prepare:  # each statement is planned anew, and PgBouncer refuses these settings
            return {}
        return {"options": f"{PLANNING} {conninfo_to_dict(self.dsn).get('options') or ''}"}

    def _settings_of(self, name: str) -> dict[str, Any]:
        # A timeout in the DSN takes precedence.
        timeout = {"connect_timeout": CONNECT_TIMEOUT} | conninfo_to_dict(self.dsn)
        return self.settings | {"application_name": name, "connect_timeout": timeout["connect_timeout"]}


@contextmanager
def _reachable(dsn: str) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        raise DatabaseUnreachable(f"cannot connect to {describe_dsn(dsn)}: {str(error).strip()}") from error
