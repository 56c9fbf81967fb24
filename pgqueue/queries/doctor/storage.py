"""Dead rows, sizes of indexes, settings of tables, and how many numbers are left."""

from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements

# Tell of each table with at least `least` dead rows how many it has, and when it was vacuumed, by the statistics that
# the server keeps: no table is read. Partitions have rows of their own.
DEAD_ROWS: LiteralString = """
select t.relname::text, t.n_live_tup, t.n_dead_tup, greatest(t.last_vacuum, t.last_autovacuum)
from pg_catalog.pg_stat_all_tables t
where t.schemaname = {channel}::name and t.n_dead_tup >= %(least)s::bigint
order by t.n_dead_tup desc"""

# List tables whose own settings switch autovacuum off.
NO_AUTOVACUUM: LiteralString = """
select c.relname::text from pg_catalog.pg_class c
where c.relnamespace = to_regnamespace(quote_ident({channel}::text))::oid
and exists (select from unnest(c.reloptions) as o(option)
            where o.option in ('autovacuum_enabled=off', 'autovacuum_enabled=false', 'autovacuum_enabled=0',
                               'autovacuum_enabled=no'))
order by c.relname"""

# Estimate how large each index of job_live would be if it were built now: rows (of the index or of the table, dead ones
# too, whichever is more) by the average width of its columns, pages filled as CREATE INDEX and splits leave them. Where
# ANALYZE has not looked a column counts 16 bytes. A partial index is estimated too large, so a finding may be missed
# and is never false. Reads no page of an index, as pgstattuple would: all of them.
INDEX_SIZES: LiteralString = """
select i.relname::text, pg_relation_size(i.oid),
       (greatest(i.reltuples::float8, coalesce(s.n_live_tup + s.n_dead_tup, 0::bigint)::float8)
        * (16 + width.bytes)::float8 / 0.7::float8)::bigint
from pg_catalog.pg_index x
join pg_catalog.pg_class i on i.oid = x.indexrelid
join pg_catalog.pg_class t on t.oid = x.indrelid
left join pg_catalog.pg_stat_all_tables s on s.relid = x.indrelid
cross join lateral (
    select sum(coalesce((p.avg_width + 7) / 8 * 8, 16))::int as bytes
    from generate_series(1, x.indnatts::int) as n(n)
    left join pg_catalog.pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[n.n - 1]
    left join pg_catalog.pg_stats p
        on p.schemaname = {channel}::name and p.tablename = t.relname and p.attname = a.attname
) as width
where t.relnamespace = to_regnamespace(quote_ident({channel}::text))::oid and t.relname = 'job_live'
order by i.relname"""

# List the histories whose default partition has rows. Stops at the first row of each; where all rows of a default
# partition are dead it reads on until it has found that out.
USED_DEFAULTS: LiteralString = """
select 'activity' where exists (select from {s}.activity_default)
union all select 'job_finished' where exists (select from {s}.job_finished_default)
union all select 'published_event' where exists (select from {s}.published_event_default)
union all select 'transition' where exists (select from {s}.transition_default)"""

# List days that have been older than every rule for `seconds`, still have rows, and were not emptied lately: of one
# that was, rows may stay for good reasons. Reads the catalogue, and tables with a few rows.
LATE_PARTITIONS: LiteralString = """
select o.history, o.partition, o.past + longest.age, o.bytes
from {s}.old_partition o
cross join lateral (
    select max(r.value) as age from {s}.retention r
    where case o.history when 'activity' then r.name = 'activity' when 'published_event' then r.name = 'events'
               else r.name in ('succeeded', 'cancelled') end
) as longest
where o.heap_bytes > 0::bigint and o.past + longest.age < now() - make_interval(secs => %(seconds)s::float8)
and not exists (select from {s}.pruned p where p.relation = o.partition and p.age = interval '0'
                and p.at > now() - make_interval(secs => %(seconds)s::float8))
order by o.past, o.partition limit 20"""

# List the tables whose rows a crash of the server empties. `waiter` may be one: its rows are hints.
UNLOGGED: LiteralString = """
select c.relname::text from pg_catalog.pg_class c
where c.relnamespace = to_regnamespace(quote_ident({channel}::text))::oid and c.relkind = 'r'
and c.relpersistence = 'u' and c.relname <> 'waiter'
order by c.relname"""

# Tell how far each sequence of the schema is. What the role may not read looks like a sequence that gave no number yet.
SEQUENCES: LiteralString = """
select s.sequencename::text, s.last_value, s.max_value,
       has_sequence_privilege(format('%I.%I', s.schemaname, s.sequencename), 'select, usage')
from pg_catalog.pg_sequences s where s.schemaname = {channel}::name order by s.sequencename"""

# Tell how old the oldest transaction id, and the oldest multixact id, is that rows of this database may have, and at
# which age autovacuum freezes them.
WRAPAROUND: LiteralString = """
select age(d.datfrozenxid), mxid_age(d.datminmxid), current_setting('autovacuum_freeze_max_age')::int,
       current_setting('autovacuum_multixact_freeze_max_age')::int
from pg_catalog.pg_database d where d.datname = current_database()"""


class DeadRows(NamedTuple):
    """How many rows of a table live and how many are dead; when it was last vacuumed."""

    table: str
    live: int
    dead: int
    vacuumed_at: datetime | None


class IndexSize(NamedTuple):
    """The size of an index, and what it would be if it were built now, both in bytes."""

    name: str
    size: int
    estimated: int


class Sequence(NamedTuple):
    """How far a sequence is; `last` is None if it gave no number yet, or if the role may not read it."""

    name: str
    last: int | None
    most: int
    readable: bool


class Wraparound(NamedTuple):
    """Ages of the oldest transaction id and multixact id, and the ages at which autovacuum freezes them."""

    xids: int
    mxids: int
    freeze_xids: int
    freeze_mxids: int


class LatePartition(NamedTuple):
    """A day of a history that should have been emptied at `due`, and its size in bytes."""

    history: str
    partition: str
    due: datetime
    size: int


class StorageQueries(Statements):
    """How tables and indexes are kept."""

    def dead_rows(self, least: int) -> Query[list[DeadRows]]:
        """List tables with at least so many dead rows."""
        return Query(self._sql(DEAD_ROWS), lambda rows: [DeadRows(*row) for row in rows], {"least": least})

    def no_autovacuum(self) -> Query[list[str]]:
        """List tables whose own settings switch autovacuum off."""
        return Query(self._sql(NO_AUTOVACUUM), lambda rows: [row[0] for row in rows])

    def index_sizes(self) -> Query[list[IndexSize]]:
        """Tell the size of each index of job_live, and an estimate of what it would be if it were built now."""
        return Query(self._sql(INDEX_SIZES), lambda rows: [IndexSize(*row) for row in rows])

    def used_defaults(self) -> Query[list[str]]:
        """List the histories whose default partition has rows."""
        return Query(self._sql(USED_DEFAULTS), lambda rows: [row[0] for row in rows])

    def late_partitions(self, seconds: float) -> Query[list[LatePartition]]:
        """List days that have been older than every rule for so many seconds, and still have rows."""
        return Query(
            self._sql(LATE_PARTITIONS), lambda rows: [LatePartition(*row) for row in rows], {"seconds": seconds}
        )

    def unlogged(self) -> Query[list[str]]:
        """List tables whose rows a crash of the server empties, but for `waiter`."""
        return Query(self._sql(UNLOGGED), lambda rows: [row[0] for row in rows])

    def sequences(self) -> Query[list[Sequence]]:
        """Tell how far each sequence is."""
        return Query(self._sql(SEQUENCES), lambda rows: [Sequence(*row) for row in rows])

    def wraparound(self) -> Query[Wraparound]:
        """Tell how old the oldest ids are that rows may have."""
        return Query(self._sql(WRAPAROUND), lambda rows: Wraparound(*rows[0]))
