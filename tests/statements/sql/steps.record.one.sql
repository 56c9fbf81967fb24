with held as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = %(id)s::bigint and j.lease = %(lease)s::bigint and j.state = 'running' for share
), written as (
    insert into "pgqueue".step (job_id, name, kind, done, value, wake_at, waits, wait_key, undo, attempt, lease, version, at)
    select held.id, %(name)s::text, %(kind)s::text, %(waits)s::text is null, %(value)s::jsonb,
           clock_timestamp() + pg_catalog.make_interval(secs => %(seconds)s::float8), %(waits)s::text, %(key)s::text,
           %(undo)s::jsonb, %(attempt)s::int, %(lease)s::bigint, %(version)s::int, clock_timestamp()
    from held
    on conflict (job_id, name) do nothing
    returning *
)
select 1, t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number, true from written t
union all
select 1, t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number, false
from held cross join lateral (
    select * from "pgqueue".step where job_id = held.id and name = %(name)s::text limit 1) as t
