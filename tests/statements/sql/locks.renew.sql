with mine as materialized (
    select g.owner, g.ttl, l.key from unnest((select %(owners)s::uuid[]), %(keys)s::text[], (select %(ttls)s::float8[]))
        as g(owner, key, ttl)
    cross join lateral (
        select k.key from "pgqueue".named_lock k where k.key::text = g.key::text and k.owner::uuid = g.owner
        limit 1 for update skip locked) as l
), renewed as (
    update "pgqueue".named_lock l set expires_at = clock_timestamp() + pg_catalog.make_interval(secs => mine.ttl) from mine
    where l.key = any(array[mine.key]) and l.owner::uuid = mine.owner returning l.owner
)
select g.owner, exists (select from renewed where renewed.owner::uuid = g.owner),
    (select true from "pgqueue".named_lock l where l.key::text = g.key::text and l.owner::uuid = g.owner limit 1) is not null
from unnest((select %(owners)s::uuid[]), %(keys)s::text[]) as g(owner, key)
