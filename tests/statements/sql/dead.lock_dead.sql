select task, args::text, headers::text from "pgqueue".dead_letter where id = %(id)s::bigint for update
