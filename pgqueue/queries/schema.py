"""The state of the schema: its version, and the session in which it is migrated."""

from typing import Any, LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, first_value, nothing

# Tell whether the schema was ever migrated. Runs before VERSION, because reading a table that does not exist aborts a
# transaction.
HAS_VERSION: LiteralString = "select to_regclass(quote_ident({channel}) || '.migration') is not null"

# Read the migration that the schema is at.
VERSION: LiteralString = "select version_num from {s}.migration"

# Fail where the schema is missing, or older than the newest columns. Reads no rows. Each process runs this first.
CHECK: LiteralString = """
select count(j.expires_at), count(w.quiet_at), count(q.paused_until), count(s.value)
from {s}.job_live j, {s}.worker w, {s}.queue q, {s}.setting s where false"""

# One migrator at a time. A transaction lock: a killed migrator leaves nothing behind, and PgBouncer in transaction mode
# cannot strand it.
LOCK_MIGRATIONS: LiteralString = "select pg_advisory_xact_lock(hashtext('pgqueue migrate ' || {channel}))"

SETTINGS: LiteralString = """
select current_setting('search_path'), current_setting('lock_timeout'), current_setting('statement_timeout'),
       current_setting('standard_conforming_strings')"""

# Until the end of the transaction or savepoint.
SET_SETTINGS: LiteralString = """
select set_config('search_path', %(search_path)s, true), set_config('lock_timeout', %(lock_timeout)s, true),
       set_config('statement_timeout', %(statement_timeout)s, true),
       set_config('standard_conforming_strings', %(standard_conforming_strings)s, true)"""

# Validate the constraints that a migration has added as NOT VALID: Postgres reads the table, and everybody goes on
# reading and writing it. A constraint that cannot be validated now (a row violates it, another transaction has a lock)
# stays as it is: it binds new rows.
VALIDATE: LiteralString = """
do $validate$
declare
    added record;
begin
    perform set_config('search_path', 'pg_catalog, pg_temp', true);
    perform set_config('lock_timeout', '500ms', true);
    for added in select c.conname, r.relname from pg_catalog.pg_constraint c
        join pg_catalog.pg_class r on r.oid = c.conrelid
        where c.connamespace = to_regnamespace(quote_ident({channel}))
        and not c.convalidated and c.contype = 'c' loop
        begin
            execute format('alter table %I.%I validate constraint %I', {channel}, added.relname, added.conname);
        exception when check_violation or lock_not_available or insufficient_privilege or deadlock_detected then
            raise debug 'constraint % is validated later: %', added.conname, sqlerrm;
        end;
    end loop;
end
$validate$"""


class MigrationSettings(NamedTuple):
    """Settings under which a migration runs. It takes its time, and calls nothing that a stranger put into `public`."""

    search_path: str = "pg_catalog, pg_temp"
    lock_timeout: str = "0"
    statement_timeout: str = "0"
    standard_conforming_strings: str = "on"


class SchemaQueries(Statements):
    """The schema itself."""

    def has_version(self) -> Query[bool]:
        """Tell whether the schema was ever migrated."""
        return Query(self._sql(HAS_VERSION), first_value)

    def version(self) -> Query[str | None]:
        """Read the migration that the schema is at."""
        return Query(self._sql(VERSION), first_value)

    def check(self) -> Query[Any]:
        """Fail unless the schema is there, and new enough."""
        return Query(self._sql(CHECK), first_value)

    def validate(self) -> Query[None]:
        """Validate the constraints that a migration has added for new rows only."""
        return Query(self._sql(VALIDATE), nothing)

    def lock_migrations(self) -> Query[None]:
        """Wait until no other process migrates this schema."""
        return Query(self._sql(LOCK_MIGRATIONS), nothing)

    def settings(self) -> Query[MigrationSettings]:
        """Return the settings of the session as they are."""
        return Query(self._sql(SETTINGS), lambda rows: MigrationSettings(*rows[0]))

    def set_settings(self, settings: MigrationSettings) -> Query[None]:
        """Change settings until the end of the transaction or savepoint."""
        return Query(self._sql(SET_SETTINGS), nothing, settings._asdict())
