select c.relname::text from pg_catalog.pg_class c
where c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'::text))::oid
and exists (select from pg_catalog.unnest(c.reloptions) as o(option)
            where o.option in ('autovacuum_enabled=off', 'autovacuum_enabled=false', 'autovacuum_enabled=0',
                               'autovacuum_enabled=no'))
order by c.relname
