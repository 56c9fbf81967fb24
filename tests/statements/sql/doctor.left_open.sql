with living as materialized (
    select w.id, w.root_id, w.name, w.created_at, w.state, w.sealed from "pgqueue".workflow w
    where not w.settled and w.created_at < now() - pg_catalog.make_interval(secs => %(age)s::float8)
    order by w.created_at limit 10000
), empty as (
    select l.id, l.name, l.created_at from living l
    where l.id = l.root_id and l.state = 'running' and not l.sealed
    and (select true from "pgqueue".job_live j where j.workflow_id = l.id limit 1) is null
    and (select true from "pgqueue".dead_letter d where d.workflow_id = l.id and d.ties::int & 16 > 0 limit 1) is null
    order by l.created_at limit 50
)
select e.id, e.name, e.created_at, w.jobs from empty e
cross join lateral (select w.jobs from "pgqueue".workflows w where w.id = e.id limit 1) as w order by e.created_at
