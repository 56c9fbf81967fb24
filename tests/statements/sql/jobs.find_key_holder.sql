select g.ord, k.job_id, k.created_at,
       coalesce(k.request = pg_catalog.hashtextextended(g.args::jsonb::text collate "C", 0), true) or not %(compared)s::bool,
       k.expires_at <= statement_timestamp(), pg_catalog.has_table_privilege(pg_catalog.format('%%I.job', 'pgqueue'), 'select')
       and pg_catalog.has_table_privilege(pg_catalog.format('%%I.attempt', 'pgqueue'), 'select')
from unnest((select pg_catalog.string_to_array(%(keys)s, E'\n', '')), (select pg_catalog.string_to_array(%(args)s, E'\n')))
     with ordinality as g(key, args, ord)
join "pgqueue".idempotency_key k on k.key = any(array[g.key::uuid])
