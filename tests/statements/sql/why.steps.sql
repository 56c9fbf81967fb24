select t.name, t.kind, t.at, t.attempt, t.done, t.timed_out, t.wake_at, t.waits, t.wait_key, t.undo is not null
from "pgqueue".step t where t.job_id = %(id)s::bigint order by t.number limit %(limit)s::int
