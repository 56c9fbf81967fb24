select i.relname::text from pg_catalog.pg_index x join pg_catalog.pg_class i on i.oid = x.indexrelid
where i.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'::text))::oid
and i.relname in ('job_live_unique', 'idempotency_key_pkey') and x.indisunique and x.indisvalid
