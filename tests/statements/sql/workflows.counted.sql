select d.id, d.workflow_id from "pgqueue".dead_letter d
where d.id = any((select %(ids)s::bigint[])::bigint[]) and d.workflow_id is not null
and d.ties is not null and d.ties::int & 16 = 0
union all
select f.id, f.workflow_id from "pgqueue".job_finished f
where f.id = any((select %(ids)s::bigint[])::bigint[]) and f.state = 'cancelled' and f.workflow_id is not null
and f.ties is not null
