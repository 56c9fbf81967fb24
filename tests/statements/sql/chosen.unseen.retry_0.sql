select (
    select w.id + 1 from "pgqueue".job_live w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1)
