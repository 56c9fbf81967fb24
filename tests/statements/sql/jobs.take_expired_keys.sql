with expired as materialized (
    select k.key from pg_catalog.unnest((select %(keys)s::uuid[])) as g(key)
    join "pgqueue".idempotency_key k on k.key = any(array[g.key])
    where k.expires_at <= statement_timestamp() for update of k skip locked
)
delete from "pgqueue".idempotency_key k using expired where k.key = any(array[expired.key]) returning k.key
