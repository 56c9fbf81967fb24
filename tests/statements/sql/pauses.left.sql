with recursive holder(id) as (
    (select j.worker_id from "pgqueue".job_live j where j.worker_id is not null order by j.worker_id limit 1)
    union all
    select (select j.worker_id from "pgqueue".job_live j where j.worker_id > holder.id order by j.worker_id limit 1)
    from holder where holder.id is not null
)
select coalesce(pg_catalog.sum(held.jobs), 0)::bigint from holder cross join lateral (
    select count(*) as jobs from "pgqueue".job_live j
    where j.worker_id = holder.id and j.task::text = any(%(tasks)s::text[])) as held
where holder.id is not null
