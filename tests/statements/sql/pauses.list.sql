select p.kind, p.name, p.key, p.since, p.until, p.by, p.why from "pgqueue".paused p
order by p.kind, p.name, p.key nulls first
