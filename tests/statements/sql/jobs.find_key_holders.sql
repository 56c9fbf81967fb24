select g.ord, k.job_id, k.created_at,
       coalesce(k.request = hashtextextended(g.args::jsonb::text collate "C", 0), true) or not %(compared)s::bool,
       k.expires_at <= statement_timestamp(), has_table_privilege(format('%%I.job', 'pgqueue'), 'select')
       and has_table_privilege(format('%%I.attempt', 'pgqueue'), 'select')
from unnest((select string_to_array(%(keys)s, E'\n', '')), (select string_to_array(%(args)s, E'\n')))
     with ordinality as g(key, args, ord)
join "pgqueue".idempotency_key k on k.key = any(array[g.key::uuid])
