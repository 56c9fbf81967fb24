select o.history, o.partition, o.past + longest.age, o.bytes
from "pgqueue".old_partition o
cross join lateral (
    select pg_catalog.max(r.value) as age from "pgqueue".retention r
    where case o.history when 'activity' then r.name = 'activity' when 'published_event' then r.name = 'events'
               else r.name in ('succeeded', 'cancelled') end
) as longest
where o.heap_bytes > 0::bigint and o.past + longest.age < now() - pg_catalog.make_interval(secs => %(seconds)s::float8)
and not exists (select from "pgqueue".pruned p where p.relation = o.partition and p.age = interval '0'
                and p.at > now() - pg_catalog.make_interval(secs => %(seconds)s::float8))
order by o.past, o.partition limit 20
