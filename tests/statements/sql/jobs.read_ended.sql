select task::text, args::text, headers::text from "pgqueue".dead_letter where id = %(id)s::bigint
union all
select task::text, args::text, headers::text from "pgqueue".job_finished where id = %(id)s::bigint and state = 'cancelled'
