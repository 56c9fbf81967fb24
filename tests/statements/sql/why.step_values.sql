select t.name, t.value::text from "pgqueue".step t where t.job_id = %(id)s::bigint and t.value is not null
order by t.number limit %(limit)s::int
