with edge as materialized (
    select d.runs_after, w.id, w.value_of, w.created_at - interval '1 day' as since
    from "pgqueue".dependency d cross join lateral (select w.* from "pgqueue".workflow w where w.id = d.parent_id limit 1) as w
    where d.child_id = any(array[%(job)s::bigint]) and d.argument = %(argument)s::text
), counted as materialized (
    select g.id, g.first_id, g.last_id from edge e cross join lateral (
        select g.* from "pgqueue".gate g where g.workflow_id = any(array[e.id])) as g where e.value_of is null
), page as materialized (
    select e.*, p.start, p.start + %(window)s::bigint as reached from edge e cross join lateral (
        select case when e.value_of is null then (select pg_catalog.min(greatest(c.first_id - 1, %(after)s::bigint))
                                                  from counted c where c.last_id > %(after)s::bigint)
                    when %(after)s::bigint < pg_catalog.cardinality(e.value_of) then %(after)s::bigint end as start) as p
)
select p.reached, n.place, p.runs_after, n.task, n.state, n.result::text, n.error::text
from page p left join lateral (
    select f.id as place, f.task::text, f.state, f.result, null::jsonb as error from "pgqueue".job_finished f
    where f.id > p.start and f.id <= p.reached and f.gate_id = any(array(select id from counted))
    and f.finished_at >= p.since
    union all
    select d.id, d.task::text, 'failed', null, d.error from "pgqueue".dead_letter d
    where d.id > p.start and d.id <= p.reached and d.gate_id = any(array(select id from counted))
    union all
    select v.place, f.task, f.state, f.result, null
    from pg_catalog.unnest(p.value_of[p.start + 1 : p.reached]) with ordinality as u(id, n)
    cross join lateral (select u.id, p.start + u.n as place) as v
    cross join lateral (
        select f.task::text, f.state, f.result from "pgqueue".job_finished f
        where f.id = v.id and f.finished_at >= p.since) as f
) as n on true
where p.start is not null order by n.place
