with recursive aside(task) as (
    (select j.task::text from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'pause'
     order by j.task limit 1)
    union all
    select (select j.task::text from "pgqueue".job_live j
            where j.state = 'blocked' and j.waits_for = 'pause' and j.task::text > aside.task
            order by j.task limit 1)
    from aside where aside.task is not null
)
select c.task, true, extract(epoch from c.paused_until - clock_timestamp())::float8, c.paused_by, c.paused_why
from "pgqueue".task_control c where c.paused_at is not null and (c.paused_until is null or c.paused_until > now())
union all
select aside.task, false, null, null, null from aside
where aside.task is not null
and not exists (select from "pgqueue".task_control c where c.task = aside.task and c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))
