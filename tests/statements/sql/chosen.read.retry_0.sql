select j.id, j.task::text, j.args::text, j.headers::text from "pgqueue".job_live j
where j.id = any((select %(ids)s::bigint[])::bigint[]) order by j.id
