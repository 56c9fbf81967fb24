with held as materialized (
    select j.id, j.lease from "pgqueue".job_live j
    where j.id = %(id)s::bigint and j.state = 'running' and j.lease = %(lease)s::bigint for update
), written as (
    insert into "pgqueue".step (job_id, name, kind, attempt, lease, version, at)
    select held.id, %(name)s::text, 'value', %(attempt)s::int, held.lease, %(version)s::int, clock_timestamp() from held
    on conflict (job_id, name) do nothing returning *
)
select t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number, "pgqueue".compensate(t.job_id, t.lease, false) from written t
