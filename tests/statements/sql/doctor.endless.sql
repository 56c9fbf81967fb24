select t.job_id, t.kind, t.waits, t.wait_key, t.at
from (select * from "pgqueue".step s order by s.job_id, s.name limit 10000) as t
where not t.done and t.waits is not null and t.wake_at is null and t.at < now() - pg_catalog.make_interval(secs => %(age)s::float8)
and (select true from "pgqueue".job_live j where j.id = t.job_id limit 1) is not null
order by t.job_id limit 50
