with recursive keep as (
    select case when pg_catalog.bool_and(r.value is not null) then pg_catalog.max(r.value) end as age
    from "pgqueue".retention r where r.name in ('succeeded', 'cancelled')
), part as materialized (
    select s.last_day::timestamp at time zone 'UTC' as past from "pgqueue".partition_status s
    where s.history = 'job_finished' and not s.is_default
), held(id, job) as (
    (select j.workflow_id, j.id from "pgqueue".job_live j
     where j.workflow_id is not null order by j.workflow_id, j.id limit 1)
    union all
    select n.* from held h cross join lateral (
        select j.workflow_id, j.id from "pgqueue".job_live j
        where j.workflow_id > h.id order by j.workflow_id, j.id limit 1) as n
)
select w.id, w.name, w.created_at, held.parts, w.job from (
    (select w.id, w.name, w.created_at, null::bigint as job from "pgqueue".workflow w
     where not w.settled and w.root_id = w.id and w.created_at < now() - (select age from keep)
     order by w.created_at limit 10)
    union all
    (select w.*, h.job from held h cross join lateral (
        select w.id, w.name, w.created_at from "pgqueue".workflow w
        where w.id = h.id and w.settled and w.created_at < now() - (select age from keep) limit 1) as w
     order by w.created_at limit 10)) as w
cross join lateral (
    select count(*) as parts from part p
    where p.past + interval '1 day' <= now() - (select age from keep) and p.past + interval '2 days' > w.created_at
) as held
where held.parts > 0 order by w.created_at limit 10
