"""The schema itself: its version, whether it is there, and the daily partitions of its two histories."""

from typing import Any, LiteralString

from pgqueue.queries.base import Query, Statements, first_value, nothing

# Tell whether the schema was ever migrated. Runs before VERSION, because reading a table that does not exist aborts a
# transaction.
HAS_VERSION: LiteralString = "select to_regclass(quote_ident({channel}) || '.migration') is not null"

# Read the migration that the schema is at.
VERSION: LiteralString = "select version_num from {s}.migration"

# Fail where the schema is missing, or older than the newest table. Reads no rows. Each process runs this first.
CHECK: LiteralString = "select count(j.expires_at), count(r.job_id) from {s}.job_live j, {s}.waiter r where false"

# Make the partitions of yesterday, today and the next seven days, where they are missing. Days are UTC days.
# Any process may run this at any time: one does the work, under a transaction lock that it tries and does not wait for,
# and the others return at once. A partition is built apart and then attached, which locks the parent only against other
# DDL. Attaching also locks and scans the default partition; where that has grown beyond 16 MB no partition is made,
# because inserts would wait for the scan. `lock_timeout` gives up instead of waiting behind a long report, where it
# would block all that come after it. A partition that cannot be made now (the table is locked, rows of that day lie in
# the default partition already, the role lacks the privilege) is left for the next call. Until then the default
# partition takes the rows, and nothing is lost.
MAKE_PARTITIONS: LiteralString = """
do $make_partitions$
declare
    history record;
    day date;
    part text;
begin
    if not pg_try_advisory_xact_lock(hashtext({channel}), hashtext('make partitions')) then
        return;
    end if;
    perform set_config('lock_timeout', '500ms', true);
    for history in select * from (values ('job_finished', 'finished_at'), ('transition', 'at')) as h(parent, key) loop
        for day in select d::date from generate_series((now() at time zone 'UTC')::date - 1,
                                                       (now() at time zone 'UTC')::date + 7, interval '1 day') as d loop
            part := history.parent || to_char(day, '"_"YYYYMMDD');
            continue when to_regclass(format('%I.%I', {channel}, part)) is not null
                or pg_relation_size(format('%I.%I', {channel}, history.parent || '_default')::regclass) > 16777216;
            begin
                execute format('create table %I.%I (like %I.%I including defaults including constraints)',
                               {channel}, part, {channel}, history.parent);
                execute format('alter table %I.%I attach partition %I.%I for values from (%L) to (%L)',
                               {channel}, history.parent, {channel}, part,
                               day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            exception when check_violation or lock_not_available or insufficient_privilege then
                raise debug 'partition % is left for later: %', part, sqlerrm;
            end;
        end loop;
    end loop;
end
$make_partitions$"""

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

    def make_partitions(self) -> Query[None]:
        """Make the partitions of today and the week ahead, where they are missing."""
        return Query(self._sql(MAKE_PARTITIONS), nothing)

    def validate(self) -> Query[None]:
        """Validate the constraints that a migration has added for new rows only."""
        return Query(self._sql(VALIDATE), nothing)
