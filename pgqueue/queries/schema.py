"""The state of the schema: its version, and the session in which it is migrated."""

from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, first_value, nothing

# Tell whether the schema was ever migrated. Runs before VERSION, because reading a table that does not exist aborts a
# transaction.
HAS_VERSION: LiteralString = "select to_regclass(quote_ident({channel}) || '.migration') is not null"

# Read which schemas of the database hold the tables of pgqueue, whatever their version, and may be used by this role.
# From the catalogue, by pg_class_relname_nsp_index, so it costs the same among any number of other tables. It locks
# nothing: a schema that is made or dropped meanwhile is seen or not. Rows of information_schema would not do: they lack
# the tables on which the role has no right yet, as in a schema that is to be migrated.
INSTALLED: LiteralString = """
select n.nspname::text from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relname = 'job_live' and c.relkind in ('r', 'p')
and pg_catalog.has_schema_privilege(n.oid, 'usage')
and exists (select from pg_catalog.pg_class m where m.relname = 'migration' and m.relnamespace = n.oid)
order by 1"""

# Read the migration that the schema is at.
VERSION: LiteralString = "select version_num from {s}.migration"

# Read the version of the schema, and the newest version that a process must know to work on it: contract migrations
# have taken away what older ones use. A few rows. Each process runs this first, and once more when its row is there:
# a contract migration has the table of workers locked, so it has seen that row, or this statement sees the migration.
CHECK: LiteralString = "select (select version_num from {s}.migration), (select max(needs) from {s}.compat)"

# The beginning of a contract migration: refuse it while a process beats that knows too little. The lock keeps every
# other process from inserting its row between this look and the commit. It holds up heartbeats, which have a quarter of
# a lease: what follows must be short. The naive form looks without a lock. In a migration's text: no parameters.
REFUSE_OLDER: LiteralString = """lock table {s}.worker in share row exclusive mode;

do $older$
declare
    older text;
    others bigint;
begin
    select pg_catalog.format('%s on %s, pid %s, pgqueue %s', w.kind, w.host, w.pid, w.version), count(*) over () - 1
    into older, others from {s}.worker w
    where w.lost_at is null and (w.knows is null or w.knows < '{needs}')
    and w.heartbeat_at >= clock_timestamp() - pg_catalog.make_interval(secs => least(w.lease_seconds, 86400))
    order by w.started_at limit 1;
    if found then
        raise exception 'migration {revision} takes away what older releases use, and one still runs: %',
            older || case when others > 0 then pg_catalog.format(' (and %s more)', others) else '' end
            using errcode = 'object_in_use';
    end if;
end
$older$;

"""

# Read the indexes of a table and its partitions that an index of this name consists of. `index` is the name that a
# partition's part has or gets. From the catalogue, by the name of the table.
INDEX_STATES: LiteralString = """
with whole as (
    select c.oid, c.relname::text as name from pg_catalog.pg_class c
    where c.relnamespace = to_regnamespace(quote_ident({channel}::text))::oid and c.relname::text = %(table)s::text
), part as (
    select whole.oid, whole.name as whole from whole
    union all
    select i.inhrelid, whole.name from whole join pg_catalog.pg_inherits i on i.inhparent = whole.oid
), named as (
    select c.oid, c.relname::text as name, c.relkind, %(index)s::text
        || substring(c.relname::text, char_length(part.whole) + 1) as index
    from part join pg_catalog.pg_class c on c.oid = part.oid
)
select n.name, n.relkind = 'p', n.index, x.indexrelid is not null, coalesce(x.indisvalid, false),
    exists (select from pg_catalog.pg_inherits h join pg_catalog.pg_index y on y.indexrelid = h.inhrelid
            join pg_catalog.pg_class k on k.oid = h.inhparent
            where y.indrelid = n.oid and k.relname::text = %(index)s::text)
from named n left join pg_catalog.pg_class c on c.relname::text = n.index
    and c.relnamespace = to_regnamespace(quote_ident({channel}::text))::oid
left join pg_catalog.pg_index x on x.indexrelid = c.oid
order by n.name"""

# One migrator at a time. A transaction lock: a killed migrator leaves nothing behind, and PgBouncer in transaction mode
# cannot strand it.
LOCK_MIGRATIONS: LiteralString = "select pg_advisory_xact_lock(hashtext('pgqueue migrate ' || {channel}))"

SETTINGS: LiteralString = """
select current_setting('search_path'), current_setting('lock_timeout'), current_setting('statement_timeout'),
       current_setting('standard_conforming_strings'), current_setting('idle_in_transaction_session_timeout'),
       current_setting('transaction_timeout', true)"""

# Until the end of the transaction or savepoint. PostgreSQL 17 knows a transaction_timeout, older ones refuse its name.
SET_SETTINGS: LiteralString = """
select set_config('search_path', %(search_path)s, true), set_config('lock_timeout', %(lock_timeout)s, true),
       set_config('statement_timeout', %(statement_timeout)s, true),
       set_config('standard_conforming_strings', %(standard_conforming_strings)s, true),
       set_config('idle_in_transaction_session_timeout', %(idle_timeout)s, true),
       (select set_config(s.name, %(transaction_timeout)s, true) from pg_catalog.pg_settings s
        where s.name = 'transaction_timeout')"""

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


class SchemaState(NamedTuple):
    """The version of the schema, and the newest one that a process must know; None if there is no such bound."""

    version: str
    needs: str | None


class IndexState(NamedTuple):
    """What there is of an index on a table, or on one of its partitions. `attached`: to the index of the whole."""

    relation: str
    partitioned: bool
    name: str
    exists: bool
    valid: bool
    attached: bool


class MigrationSettings(NamedTuple):
    """Settings under which a migration runs. It takes its time, and calls nothing that a stranger put into `public`."""

    search_path: str = "pg_catalog, pg_temp"
    lock_timeout: str = "0"
    statement_timeout: str = "0"
    standard_conforming_strings: str = "on"
    idle_timeout: str = "0"
    transaction_timeout: str | None = "0"


class SchemaQueries(Statements):
    """The schema itself."""

    def has_version(self) -> Query[bool]:
        """Tell whether the schema was ever migrated."""
        return Query(self._sql(HAS_VERSION), first_value)

    def installed(self) -> Query[list[str]]:
        """Read which schemas of the database are pgqueue's."""
        return Query(self._sql(INSTALLED), lambda rows: [row[0] for row in rows])

    def version(self) -> Query[str | None]:
        """Read the migration that the schema is at."""
        return Query(self._sql(VERSION), first_value)

    def check(self) -> Query[SchemaState]:
        """Read for whom the schema is; fails where it is missing, or older than this statement."""
        return Query(self._sql(CHECK), lambda rows: SchemaState(*rows[0]))

    def index_states(self, table: str, index: str) -> Query[list[IndexState]]:
        """Read what there is of an index, on a table and its partitions."""
        params = {"table": table, "index": index}
        return Query(self._sql(INDEX_STATES), lambda rows: [IndexState(*row) for row in rows], params)

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
