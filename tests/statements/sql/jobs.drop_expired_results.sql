with due as materialized (
    select job_id, finished_at from "pgqueue".result_expiry
    where expires_at <= now() order by expires_at limit %(at_most)s for update skip locked
), dropped as (
    update "pgqueue".job_finished j set result = null, reason = coalesce(j.reason, 'result expired')
    from due
    where j.id = due.job_id and j.finished_at = due.finished_at and j.id = any(array(select job_id from due))
    and j.finished_at >= (select pg_catalog.min(finished_at) from due) and j.finished_at <= (select pg_catalog.max(finished_at) from due)
), forgotten as (
    delete from "pgqueue".result_expiry e where e.job_id = any(array(select job_id from due))
)
select count(*) from due
