with own as materialized (
    select j.id, j.task::text as task, j.workflow_id, j.gate_id, coalesce(j.ties::int, 0) as ties from "pgqueue".job_live j
    where j.id = %(id)s::bigint and j.lease = %(lease)s and j.state = 'running' for update
), drawn as materialized (
    select pg_catalog.nextval('"pgqueue".job_id') as workflow_id, pg_catalog.nextval('"pgqueue".job_id') as gate_id, own.id, own.task
    from own where own.workflow_id is null
), workflow as (
    insert into "pgqueue".workflow (id, root_id, name, jobs, open_gates)
    select workflow_id, workflow_id, pg_catalog.substr(task, 1, 200), 1, 1 from drawn
), gate as (
    insert into "pgqueue".gate (id, workflow_id, members, remaining, first_id, last_id)
    select gate_id, workflow_id, 1, 1, id, id from drawn
), joined as (
    update "pgqueue".job_live j
    set workflow_id = d.workflow_id, gate_id = d.gate_id, ties = coalesce(j.ties::int, 0) | 2, history = true
    from drawn d where j.id = any(array[d.id])
)
select coalesce(d.workflow_id, o.workflow_id),
       coalesce(d.workflow_id, (select g.workflow_id from "pgqueue".gate g where g.id = o.gate_id)), o.ties
from own o left join drawn d on true
