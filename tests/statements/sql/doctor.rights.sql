select c.relname::text, pg_catalog.array_remove(array[
    case when pg_catalog.has_table_privilege(c.oid, 'select') then 'select' end,
    case when pg_catalog.has_table_privilege(c.oid, 'insert') then 'insert' end,
    case when pg_catalog.has_table_privilege(c.oid, 'update') then 'update' end,
    case when pg_catalog.has_table_privilege(c.oid, 'delete') then 'delete' end], null)
from pg_catalog.pg_class c
where c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'::text))::oid and c.relkind in ('r', 'p', 'v')
and not c.relispartition order by c.relname
