with expired as materialized (
    select held.key from pg_catalog.unnest((select pg_catalog.string_to_array(%(keys)s, E'\n', ''))) as g(key)
    cross join lateral (
        select key from "pgqueue".idempotency_key
        where key = any(array[g.key::uuid]) and expires_at <= statement_timestamp() for update
    ) as held
)
delete from "pgqueue".idempotency_key k using expired
where k.key = any(array[expired.key]) and k.expires_at <= statement_timestamp()
