select t.job_id, t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number from pg_catalog.unnest((select %(ids)s::bigint[])) as g(id)
cross join lateral (select * from "pgqueue".step where job_id = g.id) as t
order by t.number
