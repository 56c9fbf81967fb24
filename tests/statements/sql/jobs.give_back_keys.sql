delete from "pgqueue".idempotency_key k
using unnest((select pg_catalog.string_to_array(%(keys)s, E'\n', '')), (select %(ids)s::bigint[])) as g(key, id)
where k.key = any(array[g.key::uuid]) and k.job_id = g.id
