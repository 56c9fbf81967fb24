select name from "pgqueue".schedule where name = any(%(names)s::text[])
