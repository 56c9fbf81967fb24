with given as materialized (
    select g.* from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]), (select %(attempts)s::int[]),
        (select pg_catalog.string_to_array(%(names)s, E'\n')), (select pg_catalog.string_to_array(%(kinds)s, E'\n')),
        (select pg_catalog.string_to_array(%(values)s, E'\n', '')), (select pg_catalog.string_to_array(%(seconds)s, ',', '')::float8[]),
        (select pg_catalog.string_to_array(%(waits)s, E'\n', '')), (select pg_catalog.string_to_array(%(keys)s, E'\n', '')),
        (select pg_catalog.string_to_array(%(undos)s, E'\n', '')), (select %(versions)s::int[])
    ) with ordinality as g(job_id, lease, attempt, name, kind, value, seconds, waits, key, undo, version, ord)
), held as materialized (
    select j.id, j.created_at from "pgqueue".job_live j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.state = 'running'
    and case when (j.id, j.lease) in (
        select id, lease from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
    ) then true end
    order by j.id for share
), written as (
    insert into "pgqueue".step (job_id, name, kind, done, value, wake_at, waits, wait_key, undo, attempt, lease, version, at)
    select g.job_id, g.name, g.kind, g.waits is null, g.value::jsonb,
           clock_timestamp() + pg_catalog.make_interval(secs => g.seconds), g.waits, g.key, g.undo::jsonb, g.attempt, g.lease,
           g.version, clock_timestamp()
    from given g where g.job_id in (select id from held) order by g.ord
    on conflict (job_id, name) do nothing
    returning *
), marked as (
    update "pgqueue".job_live j
    set attempt = 1, expires_at = null, headers = case when m.undone then j.headers::jsonb || '{"$undo": true}'::jsonb
                                                       else j.headers end
    from (select g.job_id, pg_catalog.bool_or(g.undo is not null) as undone from given g
          where g.job_id in (select id from held) group by g.job_id) as m
    where j.id = any(array[m.job_id]) and j.state = 'running'
    and (j.attempt > 1 or m.undone and not j.headers::jsonb ? '$undo'::text)
), awaited as (
    insert into "pgqueue".awaited_topic (name)
    select distinct g.waits from given g where g.kind = 'event' and g.job_id in (select id from held)
    and (select a.name from "pgqueue".awaited_topic a where a.name = g.waits limit 1) is null
    order by g.waits
    on conflict do nothing
)
select g.ord, t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number, true
from given g join written t on t.job_id = g.job_id and t.name = g.name
union all
select g.ord, t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number, false
from given g join held on held.id = g.job_id
cross join lateral (select * from "pgqueue".step where job_id = g.job_id and name = g.name limit 1) as t
