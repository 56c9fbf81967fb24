with due as materialized (
    select job_id, finished_at from "pgqueue".result_expiry
    where job_id = %(id)s::bigint and expires_at <= now() for update
), wanted as materialized (
    select due.job_id from due cross join lateral (
        select j.workflow_id from "pgqueue".job_finished j
        where j.id = due.job_id and j.finished_at = due.finished_at and j.workflow_id is not null limit 1) as j
    cross join lateral (select w.id, w.settled from "pgqueue".workflow w where w.id = j.workflow_id limit 1) as w
    where not w.settled or (select true from "pgqueue".job_live l where l.workflow_id = w.id limit 1) is not null
    union all
    select c.child_id from "pgqueue".call c cross join lateral (
        select from "pgqueue".step t
        where t.job_id = c.job_id and t.name = c.step and t.number = c.number and not t.done limit 1) as t
    where c.child_id = any(array(select job_id from due))
), put_off as (
    update "pgqueue".result_expiry e set expires_at = now() + interval '1 minute'
    where e.job_id = any(array(select job_id from wanted))
), dropped as (
    update "pgqueue".job_finished j set result = null, reason = coalesce(j.reason, 'result dropped')
    from due
    where j.id = due.job_id and j.finished_at = due.finished_at
    and j.id = any(array(select job_id from due except select job_id from wanted))
    and j.finished_at >= (select pg_catalog.min(finished_at) from due) and j.finished_at <= (select pg_catalog.max(finished_at) from due)
    returning j.id
), moving as materialized (
    select due.job_id from due cross join lateral (
        select from "pgqueue".job_finished j where j.id = due.job_id and j.finished_at = due.finished_at limit 1) as there
    where due.job_id not in (select id from dropped)
), forgotten as (
    delete from "pgqueue".result_expiry e
    where e.job_id = any(array(select job_id from due where job_id not in (select job_id from moving)))
)
select count(*) from due
