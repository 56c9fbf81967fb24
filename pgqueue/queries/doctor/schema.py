"""What the schema consists of, as the catalogue has it."""

from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, nothing

# Describe each column, index, constraint, function and table setting in words that do not depend on the schema's name.
# Partitions are left out: each has what its parent has, and the days differ. Reads the catalogue alone. The naive form,
# to compare versions only, misses what somebody has dropped by hand, or what a restore has left out. Quotes go: which
# names need them depends on the version of Postgres.
DESCRIBE: LiteralString = """
with relation as (
    select c.oid, c.relname::text as name, c.reloptions from pg_catalog.pg_class c
    where c.relnamespace = to_regnamespace(quote_ident({channel}::text))::oid
    and c.relkind in ('r', 'p', 'v') and not c.relispartition
), part(kind, name, text) as (
    select 'column', format('%s.%s', r.name, a.attname), concat_ws(' ',
        format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
        case when a.attgenerated <> '' then 'generated always as' when d.adbin is not null then 'default' end,
        pg_get_expr(d.adbin, d.adrelid))
    from relation r join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    left join pg_catalog.pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
    union all
    select 'index', i.relname::text, replace(pg_get_indexdef(x.indexrelid), ' ON ONLY ', ' ON ')
    from relation r join pg_catalog.pg_index x on x.indrelid = r.oid
    join pg_catalog.pg_class i on i.oid = x.indexrelid
    union all
    select 'constraint', format('%s.%s', r.name, k.conname), replace(pg_get_constraintdef(k.oid), ' NOT VALID', '')
    from relation r join pg_catalog.pg_constraint k on k.conrelid = r.oid and k.contype in ('c', 'p', 'u', 'f', 'x')
    union all
    select 'setting', format('%s.%s', r.name, (string_to_array(o.option, '='))[1]),
           (string_to_array(o.option, '='))[2]
    from relation r cross join lateral unnest(r.reloptions) as o(option)
    union all
    select 'function', format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)),
           pg_get_function_result(p.oid)
    from pg_catalog.pg_proc p where p.pronamespace = to_regnamespace(quote_ident({channel}::text))::oid
)
select kind, replace(name, quote_ident({channel}::text) || '.', ''),
       replace(replace(coalesce(text, ''), quote_ident({channel}::text) || '.', ''), '"', '')
from part order by kind collate "C", name collate "C", text collate "C"
"""

# Until the end of the transaction the catalogue writes expressions as it wrote those that a description is compared
# with: the defaults of a role or database decide how moments, intervals, names and backslashes look. Settings of the
# connection would do it, too, but a pooler refuses those. Takes no lock.
PLAINLY: LiteralString = """
select set_config('timezone', 'UTC', true), set_config('datestyle', 'ISO', true),
       set_config('intervalstyle', 'postgres', true), set_config('quote_all_identifiers', 'off', true),
       set_config('standard_conforming_strings', 'on', true)"""

# List indexes that no query uses because their making failed or was broken off. One that is being built now is left
# out. Of a partitioned index that is invalid some partition lacks its part.
INVALID_INDEXES: LiteralString = """
select i.relname::text, t.relname::text, i.relkind = 'I'
from pg_catalog.pg_index x
join pg_catalog.pg_class i on i.oid = x.indexrelid
join pg_catalog.pg_class t on t.oid = x.indrelid
where i.relnamespace = to_regnamespace(quote_ident({channel}::text))::oid and not (x.indisvalid and x.indisready)
and not exists (select from pg_catalog.pg_stat_progress_create_index p where p.index_relid = x.indexrelid)
order by i.relname"""


class Part(NamedTuple):
    """A part of the schema: its kind (column, index, constraint, setting or function), its name, what it is."""

    kind: str
    name: str
    text: str


class InvalidIndex(NamedTuple):
    """An index that no query uses."""

    name: str
    table: str
    is_partitioned: bool


class DescriptionQueries(Statements):
    """What the schema consists of."""

    def write_plainly(self) -> Query[None]:
        """Let `describe` write expressions as usual, until the end of the transaction."""
        return Query(self._sql(PLAINLY), nothing)

    def describe(self) -> Query[list[Part]]:
        """Describe every part of the schema."""
        return Query(self._sql(DESCRIBE), lambda rows: [Part(*row) for row in rows])

    def invalid_indexes(self) -> Query[list[InvalidIndex]]:
        """List the indexes that no query uses."""
        return Query(self._sql(INVALID_INDEXES), lambda rows: [InvalidIndex(*row) for row in rows])
