select id, host, pid from "pgqueue".worker where id = any(%(ids)s::uuid[])
