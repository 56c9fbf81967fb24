select c.relname::text from pg_catalog.pg_class c
where c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'::text))::oid and c.relkind = 'r'
and c.relpersistence = 'u' and c.relname <> 'waiter'
order by c.relname
