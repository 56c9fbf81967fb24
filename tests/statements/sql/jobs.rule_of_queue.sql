select name from "pgqueue".limit_rule where name = any(array[%(name)s::text])
