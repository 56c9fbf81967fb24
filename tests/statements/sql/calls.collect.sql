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
), asking as materialized (
    select g.ord, t.* from given g join held on held.id = g.job_id
    cross join lateral (select * from "pgqueue".step where job_id = g.job_id and name = g.name limit 1) as t
), child as materialized (
    select a.ord, c.child_id, c.place, p.* from asking a
    cross join lateral (select c.child_id, c.place from "pgqueue".call c where c.number = a.number) as c
    left join lateral (
        select j.task::text, 'live' as state, null as reason, null::jsonb as result, null::jsonb as error
        from "pgqueue".job_live j where j.id = c.child_id
        union all
        select f.task::text, f.state, f.reason, f.result, null from "pgqueue".job_finished f
        where f.id = c.child_id and f.finished_at >= a.at - interval '1 day'
        union all
        select d.task::text, 'failed', d.reason, null, d.error from "pgqueue".dead_letter d where d.id = c.child_id
        limit 1) as p on true
    where a.kind = 'call' and not a.done
), ended as materialized (
    select ch.ord, pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('id', ch.child_id, 'task', ch.task, 'state', ch.state, 'reason',
                                                ch.reason, 'result', ch.result, 'error', ch.error)
                             order by ch.place, ch.child_id) as items
    from child ch where ch.place is not null or ch.state is distinct from 'succeeded' group by ch.ord
), written as (
    update "pgqueue".step t
    set done = true, value = pg_catalog.jsonb_build_object('shape', a.value, 'items', coalesce(e.items, '[]'))
    from asking a left join ended e on e.ord = a.ord
    where t.job_id = any(array[a.job_id]) and t.name = a.name and t.kind = 'call' and not t.done
    and a.ord not in (select ord from child where state = 'live')
    returning a.ord, t.*
)
select t.ord, t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number from written t
union all
select t.ord, t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number from asking t where t.ord not in (select ord from written)
