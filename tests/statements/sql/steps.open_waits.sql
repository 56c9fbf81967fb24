select t.name, t.kind, t.waits, t.wait_key, t.wake_at, t.at from "pgqueue".step t
where t.job_id = %(id)s::bigint and (not t.done or t.kind = 'sleep' and t.wake_at > clock_timestamp())
order by t.number limit 20
