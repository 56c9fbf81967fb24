select l.virtualtransaction from pg_catalog.pg_locks l
where l.locktype = 'relation' and l.relation = pg_catalog.to_regclass(pg_catalog.format('%I.%I', 'pgqueue'::text, 'published_event'))::oid
and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
and l.mode = 'RowExclusiveLock' and l.pid is distinct from pg_backend_pid()
