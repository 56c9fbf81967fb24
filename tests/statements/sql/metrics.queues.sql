with parked as materialized (
    select p.queue::text as queue, pg_catalog.sum(p.jobs)::bigint as jobs from "pgqueue".parked_load p group by 1
)
select q.queue::text, q.due, q.due_capped, q.turn, q.turn_capped,
       greatest(q.scheduled - coalesce(r.retrying, 0::bigint), 0::bigint),
       coalesce(r.retrying, 0::bigint), q.running, coalesce(p.jobs, 0::bigint), q.scheduled_capped,
       coalesce(q.oldest_due_seconds, 0::float8), q.paused_at is not null, q.slots
from "pgqueue".queue_load q
left join "pgqueue".retry_load r on r.queue::text = q.queue::text
left join parked p on p.queue = q.queue::text
