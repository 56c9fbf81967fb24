with given as materialized (
    select g.* from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]), (select pg_catalog.string_to_array(%(names)s, E'\n'))
    ) with ordinality as g(job_id, lease, name, ord)
), held as materialized (
    select j.id, j.created_at from "pgqueue".job_live j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.state = 'running'
    and case when (j.id, j.lease) in (
        select id, lease from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
    ) then true end
    order by j.id for share
), open as materialized (
    select g.ord, t.*, held.created_at from given g join held on held.id = g.job_id
    cross join lateral (select * from "pgqueue".step where job_id = g.job_id and name = g.name limit 1) as t
), found as materialized (
    select o.ord, o.job_id, o.name, g.id, g.data, true as mailed from open o
    cross join lateral (select g.id, g.data from "pgqueue".signal g where g.job_id = o.job_id and g.name = o.waits
                        order by g.id limit 1) as g
    where o.kind = 'signal' and not o.done
    union all
    select o.ord, o.job_id, o.name, e.id, e.data, false from open o
    cross join lateral (
        select e.id, e.data from "pgqueue".awaited_event e
        where e.name = o.waits and e.key = o.wait_key and e.at >= o.created_at::timestamptz
        and not exists (select from "pgqueue".step t where t.job_id = o.job_id and t.event_id = e.id)
        order by e.at, e.id limit 1) as e
    where o.kind = 'event' and not o.done
), taken as (
    delete from "pgqueue".signal g using found f where f.mailed and g.id = any(array[f.id])
), written as (
    update "pgqueue".step t
    set done = true, timed_out = f.id is null, value = f.data, event_id = case when not f.mailed then f.id end
    from open o left join found f on f.ord = o.ord
    where t.job_id = any(array[o.job_id]) and t.name = o.name and not t.done
    and (f.id is not null or o.wake_at <= clock_timestamp())
    returning o.ord, t.*
)
select t.ord, t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number from written t
union all
select t.ord, t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number from open t where t.ord not in (select ord from written)
