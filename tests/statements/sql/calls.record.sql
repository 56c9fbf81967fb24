with held as materialized (
    select j.id, j.lease from "pgqueue".job_live j
    where j.id = %(id)s::bigint and j.state = 'running' and j.lease = %(lease)s::bigint for update
), written as (
    insert into "pgqueue".step (job_id, name, kind, done, value, attempt, lease, version, at)
    select held.id, %(name)s::text, 'call', false, %(value)s::jsonb, %(attempt)s::int, held.lease, %(version)s::int,
           clock_timestamp() from held
    on conflict (job_id, name) do nothing returning *
), called as (
    insert into "pgqueue".call (child_id, job_id, step, number, place)
    select g.id, t.job_id, t.name, t.number, g.place
    from written t cross join unnest((select %(children)s::bigint[]),
                                     (select pg_catalog.string_to_array(%(places)s, ',', '')::int[])) as g(id, place)
), tied as (
    update "pgqueue".job_live j set ties = (coalesce(j.ties::int, 0) | 4)::smallint
    where j.id = any((select %(children)s::bigint[])::bigint[]) and (select count(*) from written) > 0
), marked as (
    update "pgqueue".job_live j
    set attempt = 1, expires_at = null, headers = j.headers::jsonb || '{"$undo": true}'::jsonb
    from held where j.id = any(array[held.id]) and (j.attempt > 1 or not j.headers::jsonb ? '$undo'::text)
)
select t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number, true from written t
union all
select t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number, false from held
cross join lateral (select * from "pgqueue".step where job_id = held.id and name = %(name)s::text limit 1) as t
