"""The database of an app, and how its own connections are set up."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue.config import describe_dsn
from pgqueue.db.connection import AsyncConnection, Connection
from pgqueue.errors import DatabaseUnreachable

CONNECT_TIMEOUT = 10  # seconds
PLANNING = "-c enable_seqscan=off -c enable_bitmapscan=off -c jit=off -c plan_cache_mode=force_generic_plan"
LOCK_SECONDS = 2.0  # that a statement of a duty waits for a lock
# A server that is gone is noticed within about half a minute, also by a connection that only listens.
KEEPALIVE = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
# What a role or database may have set otherwise. Statements are safe without: this is the second wall.
PINNED = r"-c search_path=pg_catalog,pg_temp -c default_transaction_isolation=read\ committed -c datestyle=ISO"


@dataclass(frozen=True, slots=True)
class Database:
    """A database to connect to. `prepare`: whether statements may be prepared; PgBouncer may not allow it.
    `is_embedded`: the DSN is an `embedded:` one, of a server that pgqueue has started. `fresh` returns the DSN for a
    new connection, where that changes; then `dsn` is an earlier one."""

    dsn: str = field(repr=False)  # it may hold a password
    prepare: bool = True
    is_embedded: bool = False
    fresh: Callable[[], str] | None = field(default=None, repr=False, compare=False)

    def with_parameters(self, **parameters: Any) -> "Database":
        """Return the same database with other parameters of libpq in its DSN."""
        fresh = self.fresh
        return replace(
            self,
            dsn=make_conninfo(self.dsn, **parameters),
            fresh=None if fresh is None else lambda: make_conninfo(fresh(), **parameters),
        )

    def _now(self) -> "Database":
        """Return it with the DSN for a new connection."""
        return self if self.fresh is None else replace(self, dsn=self.fresh(), fresh=None)

    async def _anow(self) -> "Database":
        """The async twin of `_now`: a function of the user's may take its time."""
        return self if self.fresh is None else await asyncio.to_thread(self._now)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of every own connection. With autocommit each statement is a transaction of its own.

        In UTF-8 every text can be written and read: another client_encoding may lack a character of some job, and one
        such job would fail the claim of all that come with it.
        """
        settings: dict[str, Any] = {
            "autocommit": True,
            "connect_timeout": CONNECT_TIMEOUT,
            "client_encoding": "UTF8",
        }
        return settings if self.prepare else settings | {"prepare_threshold": None}

    def connect(self, name: str, deadline: float | None = None) -> Connection:
        """Open a connection. `name` is its application_name. The server ends a statement after `deadline` seconds."""
        with _reachable(self.dsn):
            now = self._now()
        with _reachable(now.dsn):
            return psycopg.connect(now.dsn, **now._settings_of(name) | now._options("", deadline))

    async def connect_async(self, name: str) -> AsyncConnection:
        """The async twin of `connect`."""
        with _reachable(self.dsn):
            now = await self._anow()
        with _reachable(now.dsn):
            return await psycopg.AsyncConnection.connect(now.dsn, **now._settings_of(name))

    async def connect_duty(self, name: str, deadline: float) -> AsyncConnection:
        """Open the connection of a duty, which runs only pgqueue's statements.

        The server ends a statement after `deadline` seconds, so that it gives up when the duty does. Otherwise it would
        go on waiting for a lock with nobody to read the answer, and each further try would leave another such backend.

        A plan that Postgres kept while a table was small still reads the whole table after it has grown, until the next
        ANALYZE. Each VACUUM makes Postgres plan anew, without regard to dead index entries. So these connections prefer
        an index in its order, whatever the size of a table. They do not compile: no statement of pgqueue gains by it.
        They keep one plan for all parameters, which the statements hide from the planner anyway. Left to choose,
        Postgres plans some statements anew at each call, and that takes longer than to run them (decision 24).
        """
        with _reachable(self.dsn):
            now = await self._anow()
        with _reachable(now.dsn):
            settings = now._settings_of(name) | now._options(PLANNING, deadline)
            return await psycopg.AsyncConnection.connect(now.dsn, **settings)

    def _options(self, planning: str, deadline: float | None) -> dict[str, Any]:
        if not self.prepare or deadline is None:  # PgBouncer refuses these settings
            return {}
        milliseconds = int(1000 * deadline)
        timeouts = (
            f"-c statement_timeout={milliseconds} -c lock_timeout={min(int(1000 * LOCK_SECONDS), milliseconds)} "
            f"-c idle_in_transaction_session_timeout={milliseconds}"
        )
        # What the operator has set comes last, and takes precedence.
        given = conninfo_to_dict(self.dsn).get("options") or _default_options()
        return {"options": f"{PINNED} {planning} {timeouts} {given}"}

    def _settings_of(self, name: str) -> dict[str, Any]:
        # What the DSN says takes precedence.
        given = conninfo_to_dict(self.dsn)
        limits = {"connect_timeout": CONNECT_TIMEOUT} | KEEPALIVE
        return self.settings | {"application_name": name} | {key: given.get(key, limits[key]) for key in limits}


def _default_options() -> str:
    """Return the options that libpq uses unless a DSN has some: of PGOPTIONS, or of the service of PGSERVICE."""
    defaults = (option for option in psycopg.pq.Conninfo.get_defaults() if option.keyword == b"options")
    return next((option.val.decode() for option in defaults if option.val), "")


@contextmanager
def _reachable(dsn: str) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        where = describe_dsn(dsn) if dsn else "the database"
        if "unsupported startup parameter" in str(error):
            raise DatabaseUnreachable(
                f"cannot connect to {where}: a pooler is in front of it and refuses the startup parameter "
                "options: make the app with App(pgbouncer=True), or give a DSN that leads to Postgres itself"
            ) from error
        raise DatabaseUnreachable(f"cannot connect to {where}: {str(error).strip()}") from error
