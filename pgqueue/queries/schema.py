"""The state of the schema: its version, and the daily partitions of the two histories."""

from typing import Any, LiteralString

from pgqueue.queries.base import Query, Statements, first_value, nothing

# Whether the schema was ever migrated. Asked first: reading a table that is not there would abort a transaction.
HAS_VERSION: LiteralString = "select to_regclass(quote_ident({channel}) || '.migration') is not null"

SCHEMA_VERSION: LiteralString = "select version_num from {s}.migration"

# Reads nothing; fails when the schema is missing, or older than the newest table. The first thing each process asks.
READY: LiteralString = "select count(j.expires_at), count(r.job_id) from {s}.job_live j, {s}.waiter r where false"

# Make the partitions of yesterday, today and the days ahead, where they are missing. UTC days.
# Any process may call it at any time: one does the work (a transaction lock that is tried, not waited for), the
# others return at once. A partition is built apart and then attached, which locks the parent only against other DDL.
# The default partition is locked and scanned, so it is left alone where it has grown beyond 16 MB: inserts would wait
# for the scan. `lock_timeout` gives up rather than queue up behind a long report and block everybody after it. What
# cannot be made now (locked, rows of that day already in the default partition, no privilege) is left for the next
# call: until then the default partition takes the rows, nothing is lost.
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


class SchemaQueries(Statements):
    """The schema itself."""

    def has_version(self) -> Query[bool]:
        """Whether the schema was ever migrated."""
        return Query(self._sql(HAS_VERSION), first_value)

    def version(self) -> Query[str | None]:
        """The migration the schema is at."""
        return Query(self._sql(SCHEMA_VERSION), first_value)

    def check(self) -> Query[Any]:
        """Fail unless the schema is there."""
        return Query(self._sql(READY), first_value)

    def make_partitions(self) -> Query[None]:
        """Make the partitions of today and the week ahead, where they are missing."""
        return Query(self._sql(MAKE_PARTITIONS), nothing)
