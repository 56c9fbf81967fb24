select p.task, p.version, pg_catalog.sum(p.jobs)::bigint from "pgqueue".parked_load p where not p.known group by 1, 2
