select n.nspname::text from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relname = 'job_live' and c.relkind in ('r', 'p')
and pg_catalog.has_schema_privilege(n.oid, 'usage')
and exists (select from pg_catalog.pg_class m where m.relname = 'migration' and m.relnamespace = n.oid)
order by 1
