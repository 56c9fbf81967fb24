with edge as materialized (
    select d.parent_id, d.runs_after from "pgqueue".dependency d where d.child_id = %(id)s::bigint limit 10001
), parent as (
    select e.parent_id as id, e.runs_after, p.name, p.state from edge e cross join lateral (
        select j.task::text as name, j.state from "pgqueue".job_live j where j.id = e.parent_id
        union all
        select w.name, w.state from "pgqueue".workflow w where w.id = e.parent_id and w.state = 'running'
        union all
        select d.task::text, 'failed' from "pgqueue".dead_letter d
        where d.id = e.parent_id and d.ties::int & 16 > 0) as p
)
select (select count(*) from edge)::int, (select count(*) from parent)::int, p.id, p.name, p.state, p.runs_after
from (select 1) as one left join (select * from parent order by id limit %(most)s::int) as p on true order by p.id
