"""Settings of the server, its clock and its NOTIFY queue."""

from datetime import UTC, datetime
from typing import LiteralString, NamedTuple

from psycopg.sql import Identifier

from pgqueue.queries.base import Query, Statements, first_value

# Read what decides whether a commit outlives a crash, and whether dead rows are removed. As this session has it: a role
# or database may have a value of its own.
SETTINGS: LiteralString = """
select current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
       current_setting('autovacuum'), current_setting('track_counts')"""

# List the roles and databases for which a commit does not wait for the disk, as far as they concern this database.
ASYNCHRONOUS_ROLES: LiteralString = """
select r.rolname::text, d.datname::text
from pg_catalog.pg_db_role_setting s
left join pg_catalog.pg_roles r on r.oid = s.setrole
left join pg_catalog.pg_database d on d.oid = s.setdatabase
where 'synchronous_commit=off' = any(s.setconfig) and (d.datname is null or d.datname = current_database())
order by r.rolname, d.datname"""

# Tell how full the queue of notifications is, 0 to 1. A commit that notifies fails when it is full.
NOTIFY_USAGE: LiteralString = "select pg_notification_queue_usage()"

# Tell the time by the server's clock.
CLOCK: LiteralString = "select clock_timestamp()"


class Durability(NamedTuple):
    """Settings that decide whether a commit outlives a crash, and whether dead rows are removed; each on or off, or
    what else Postgres knows."""

    fsync: str
    full_page_writes: str
    synchronous_commit: str
    autovacuum: str
    track_counts: str


class RoleSetting(NamedTuple):
    """For whom a setting holds: a role, a database, or a role in a database."""

    role: str | None
    database: str | None

    def __str__(self) -> str:
        role = "" if self.role is None else f"role {self.role}"
        return " in ".join(filter(None, [role, "" if self.database is None else f"database {self.database}"]))

    @property
    def altered(self) -> str:
        """The beginning of the statement that changes it."""
        database = None if self.database is None else f"database {Identifier(self.database).as_string()}"
        if self.role is None:
            return f"alter {database}"
        return f"alter role {Identifier(self.role).as_string()}" + ("" if database is None else f" in {database}")


class ServerQueries(Statements):
    """The server's settings, clock and queue of notifications."""

    def durability(self) -> Query[Durability]:
        """Read the settings that decide whether a commit outlives a crash."""
        return Query(self._sql(SETTINGS), lambda rows: Durability(*rows[0]))

    def asynchronous_roles(self) -> Query[list[RoleSetting]]:
        """List the roles and databases for which a commit does not wait for the disk."""
        return Query(self._sql(ASYNCHRONOUS_ROLES), lambda rows: [RoleSetting(*row) for row in rows])

    def notify_usage(self) -> Query[float]:
        """Tell how full the queue of notifications is, 0 to 1."""
        return Query(self._sql(NOTIFY_USAGE), first_value)

    def clock(self) -> Query[datetime]:
        """Tell the time by the server's clock, in UTC: a difference of two times in one zone overlooks a change to
        summer time."""
        return Query(self._sql(CLOCK), lambda rows: first_value(rows).astimezone(UTC))
