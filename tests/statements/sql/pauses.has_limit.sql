select exists (select from "pgqueue".limit_rule r where r.name = %(limit)s::text)
