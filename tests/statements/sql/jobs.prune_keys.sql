with sample as materialized (
    select o.expires_at, (o.ctid::text::point)[0]::bigint as page from "pgqueue".idempotency_key o
    where o.expires_at >= %(after)s::timestamptz and o.expires_at <= now() and o.job_id %% 16::bigint = 0
    order by o.expires_at limit 1
), expired as materialized (
    select k.key from "pgqueue".idempotency_key k
    where k.ctid >= (select pg_catalog.format('(%%s,0)', greatest(page - 1, 0))::tid from sample)
    and k.ctid < (select pg_catalog.format('(%%s,0)', page + %(pages)s)::tid from sample)
    and k.expires_at <= now() for update skip locked
), pruned as (
    delete from "pgqueue".idempotency_key k using expired
    where k.key = any(array[expired.key]) and k.expires_at <= now() returning k.job_id
)
select greatest(sample.expires_at, '0001-01-01Z'), (select count(*) from pruned) from sample
