select t.relname::text, t.n_live_tup, t.n_dead_tup, greatest(t.last_vacuum, t.last_autovacuum)
from pg_catalog.pg_stat_all_tables t
where t.schemaname = 'pgqueue'::name and t.n_dead_tup >= %(least)s::bigint
order by t.n_dead_tup desc
