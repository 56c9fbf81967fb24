select g.ord, j.id, j.created_at, j.attempt > 0,
       coalesce(j.expires_at <= statement_timestamp() and j.attempt = 0, false),
       pg_catalog.has_table_privilege(pg_catalog.format('%%I.job', 'pgqueue'), 'select')
       and pg_catalog.has_table_privilege(pg_catalog.format('%%I.attempt', 'pgqueue'), 'select')
from pg_catalog.unnest((select pg_catalog.string_to_array(%(unique_hashes)s, E'\n'))) with ordinality as g(unique_hash, ord)
cross join lateral (
    select id, created_at, attempt, expires_at from "pgqueue".job_live where unique_key = pg_catalog.decode(g.unique_hash, 'hex') limit 1
) as j
