select q.name, q.paused_at, q.paused_until, q.paused_by, q.paused_reason from "pgqueue".queue q where q.paused_at is not null and (q.paused_until is null or q.paused_until > now())
order by q.name
