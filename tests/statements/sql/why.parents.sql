with edge as materialized (
    select d.parent_id, d.runs_after from "pgqueue".dependency d where d.child_id = %(id)s::bigint limit 10001
), parent as (
    select e.parent_id as id, e.runs_after, p.name, p.state, p.stands_in, p.queue from edge e cross join lateral (
        select j.task::text as name, j.state, false as stands_in, j.queue::text as queue
        from "pgqueue".job_live j where j.id = e.parent_id
        union all
        select w.name, case when w.sealed then w.state else 'open' end, w.replaces = %(id)s::bigint, null
        from "pgqueue".workflow w where w.id = e.parent_id and w.state = 'running'
        union all
        select d.task::text, 'failed', false, d.queue::text from "pgqueue".dead_letter d
        where d.id = e.parent_id and d.ties::int & 16 > 0) as p
)
select (select count(*) from edge)::int, (select count(*) from parent)::int, p.id, p.name, p.state, p.runs_after,
       coalesce(p.stands_in, false), p.queue
from (select 1) as one left join (select * from parent order by id limit %(most)s::int) as p on true order by p.id
