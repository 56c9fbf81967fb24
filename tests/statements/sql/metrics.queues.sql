select q.queue::text, q.due, q.due_capped, greatest(q.scheduled - coalesce(r.retrying, 0::bigint), 0::bigint),
       coalesce(r.retrying, 0::bigint), q.running,
       coalesce((select pg_catalog.sum(p.jobs)::bigint from "pgqueue".parked_load p where p.queue::text = q.queue::text), 0::bigint),
       q.scheduled_capped, coalesce(q.oldest_due_seconds, 0::float8), q.paused_at is not null, q.slots
from "pgqueue".queue_load q left join "pgqueue".retry_load r on r.queue::text = q.queue::text
