select known.task, label.name
from pg_catalog.unnest((select %(tasks)s::text[])) as known(task)
cross join lateral (
    with recursive hop(name) as (
        (select coalesce(j.headers::jsonb ->> '$version'::text, '1') from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
         order by coalesce(j.headers::jsonb ->> '$version'::text, '1') limit 1)
        union all
        select (select coalesce(j.headers::jsonb ->> '$version'::text, '1') from "pgqueue".job_live j
                where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
                and coalesce(j.headers::jsonb ->> '$version'::text, '1') > hop.name
                order by coalesce(j.headers::jsonb ->> '$version'::text, '1') limit 1)
        from hop where hop.name is not null
    )
    select hop.name from hop where hop.name is not null
) as label
