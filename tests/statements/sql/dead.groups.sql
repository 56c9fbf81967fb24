select fingerprint, jobs, first_failed_at, last_failed_at, tasks, queues, error, newest_id
from "pgqueue".dead_group order by last_failed_at desc limit %(limit)s::int
