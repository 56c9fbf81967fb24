with free as materialized (
    select d.id from "pgqueue".dead_letter d where d.workflow_id = %(id)s::bigint order by d.id for update skip locked
)
select (select count(*) from "pgqueue".dead_letter d where d.workflow_id = %(id)s::bigint) > (select count(*) from free)
    and (select true from "pgqueue".job_live j where j.workflow_id = %(id)s::bigint limit 1) is null
