delete from "pgqueue".idempotency_key k
using pg_catalog.unnest((select pg_catalog.string_to_array(%(keys)s, E'\n', ''))) as g(key)
where k.key = any(array[g.key::uuid]) and k.expires_at <= statement_timestamp()
