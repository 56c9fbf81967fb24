select g.id, j.state, j.attempt, j.later, case when g.followed then j.progress end, j.cancel_requested
from unnest((select %(ids)s::bigint[]), (select %(followed)s::bool[])) as g(id, followed)
left join lateral (
    select l.state, l.attempt, l.run_at::timestamptz > now() as later, l.progress::text,
        l.cancel_requested_at is not null as cancel_requested
    from "pgqueue".job_live l
    where l.id = g.id limit 1
) as j on true
