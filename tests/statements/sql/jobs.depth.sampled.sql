select 64 * count(*) from (
    select from "pgqueue".job_live
    where state = 'pending' and queue::text = %(queue)s::text and id %% 64::bigint = 0
    limit %(limit)s / 64 + 1) as w
