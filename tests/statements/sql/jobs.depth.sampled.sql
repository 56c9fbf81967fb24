select 64 * count(*) from (
    (select from "pgqueue".job_live j
     where j.state = 'pending' and j.queue::text = %(queue)s::text and j.id %% 64::bigint = 0
     limit %(limit)s / 64 + 1)
    union all
    (select from "pgqueue".job_live j
     where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.id %% 64::bigint = 0 limit %(limit)s / 64 + 1)
    union all
    (select from "pgqueue".job_live j
     where j.state = 'blocked' and j.waits_for = 'pause' and j.queue::text = %(queue)s::text and j.id %% 64::bigint = 0 limit %(limit)s / 64 + 1)
    limit %(limit)s / 64 + 1) as w
