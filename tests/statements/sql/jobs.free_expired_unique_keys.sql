with expired as materialized (
    select held.id from pg_catalog.unnest((select pg_catalog.string_to_array(%(unique_hashes)s, E'\n'))) as g(unique_hash)
    cross join lateral (
        select id from "pgqueue".job_live
        where unique_key = pg_catalog.decode(g.unique_hash, 'hex') and attempt + 0 = 0
        and expires_at + interval '0' <= statement_timestamp() limit 1 for update
    ) as held
)
update "pgqueue".job_live j set unique_key = null
from expired where j.id = any(array[expired.id]) and j.attempt = 0 and j.expires_at <= statement_timestamp()
