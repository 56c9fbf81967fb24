select g.ord, j.id, j.created_at, j.attempt > 0,
       coalesce(j.expires_at <= statement_timestamp() and j.attempt = 0, false),
       has_table_privilege(format('%%I.job', 'pgqueue'), 'select')
       and has_table_privilege(format('%%I.attempt', 'pgqueue'), 'select')
from unnest((select string_to_array(%(unique_hashes)s, E'\n'))) with ordinality as g(unique_hash, ord)
cross join lateral (
    select id, created_at, attempt, expires_at from "pgqueue".job_live where unique_key = decode(g.unique_hash, 'hex') limit 1
) as j
