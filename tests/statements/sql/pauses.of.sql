select p.kind, p.name, p.key, p.since, p.until, p.by, p.why from "pgqueue".paused p
where p.kind = 'queue' and p.name = %(queue)s::text or p.kind = 'task' and p.name = %(task)s::text
order by p.kind
