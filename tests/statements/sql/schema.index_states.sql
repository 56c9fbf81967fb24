with whole as (
    select c.oid, c.relname::text as name from pg_catalog.pg_class c
    where c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'::text))::oid and c.relname::text = %(table)s::text
), part as (
    select whole.oid, whole.name as whole from whole
    union all
    select i.inhrelid, whole.name from whole join pg_catalog.pg_inherits i on i.inhparent = whole.oid
), named as (
    select c.oid, c.relname::text as name, c.relkind, %(index)s::text
        || substring(c.relname::text, pg_catalog.char_length(part.whole) + 1) as index
    from part join pg_catalog.pg_class c on c.oid = part.oid
)
select n.name, n.relkind = 'p', n.index, x.indexrelid is not null, coalesce(x.indisvalid, false),
    exists (select from pg_catalog.pg_inherits h join pg_catalog.pg_index y on y.indexrelid = h.inhrelid
            join pg_catalog.pg_class k on k.oid = h.inhparent
            where y.indrelid = n.oid and k.relname::text = %(index)s::text)
from named n left join pg_catalog.pg_class c on c.relname::text = n.index
    and c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'::text))::oid
left join pg_catalog.pg_index x on x.indexrelid = c.oid
order by n.name
