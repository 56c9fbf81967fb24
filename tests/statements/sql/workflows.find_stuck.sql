with looked as materialized (
    select j.id, j.workflow_id, j.waits_on, (j.waits_for = 'jobs') is true and j.cancel_requested_at is null as waits
    from "pgqueue".job_live j
    where j.workflow_id is not null and (j.workflow_id, j.id) > (%(workflow)s::bigint, %(job)s::bigint)
    and true
    order by j.workflow_id, j.id limit %(at_most)s::int
), old as materialized (
    select w.id from (select distinct workflow_id from looked) as l cross join lateral (
        select w.id from "pgqueue".workflow w
        where w.id = l.workflow_id and w.created_at < now() - interval '1 hour' limit 1) as w
), stuck as materialized (
    select l.id, l.waits_on from looked l cross join lateral (
        select count(*) filter (where ((select true from "pgqueue".job_live p where p.id = d.parent_id limit 1) is not null
        or (select true from "pgqueue".workflow w where w.id = d.parent_id and not w.settled limit 1) is not null
        or (select true from "pgqueue".dead_letter p
            where p.id = d.parent_id and p.ties::int & 16 > 0 limit 1) is not null)) as left_over, coalesce(pg_catalog.bool_or(d.late), false) as late
        from "pgqueue".dependency d where d.child_id = l.id) as e
    where l.waits and l.workflow_id in (select id from old) and l.waits_on > e.left_over and not e.late
)
select s.id, j.task::text, j.workflow_id from stuck s cross join lateral (
    select j.task, j.workflow_id from "pgqueue".job_live j where j.id = s.id limit 1) as j
order by s.id
