select task::text, args::text, headers::text from "pgqueue".job_live
where id = %(id)s::bigint and state in ('pending', 'blocked') for update
