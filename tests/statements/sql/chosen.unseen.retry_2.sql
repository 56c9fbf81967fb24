select (
    select w.id + 1 from "pgqueue".job_finished w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1)
