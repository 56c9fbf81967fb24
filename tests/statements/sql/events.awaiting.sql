select count(*) from (
    select from "pgqueue".step t
    cross join lateral (select from "pgqueue".job_live j where j.id = t.job_id limit 1) as j
    where t.kind = 'event' and not t.done and t.waits = %(topic)s::text and t.wait_key = %(key)s::text
    limit %(most)s::int) as w
