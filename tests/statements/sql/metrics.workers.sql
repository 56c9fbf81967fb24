select w.kind::text, w.status::text, w.version::text, count(*) from "pgqueue".worker_health w group by 1, 2, 3
