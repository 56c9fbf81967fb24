select h.task, h.runs, h.succeeded, h.retried, h.failed, h.error_share, h.run_seconds, h.run_p50, h.run_p95,
       h.wait_p95, h.last_success
from "pgqueue".task_health h
where %(task)s::text is null or h.task = %(task)s::text order by h.runs desc, h.task limit %(limit)s::int
