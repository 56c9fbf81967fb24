select h.bucket from "pgqueue".job_live j cross join lateral (
    select h.bucket from "pgqueue".limit_hold h where h.job_id = j.id and h.lease = j.lease order by h.bucket limit 100) as h
where j.id = %(id)s::bigint
