with parent as materialized (
    select j.id from "pgqueue".job_live j where j.id = any((select %(ids)s::bigint[])::bigint[])
    and coalesce(j.ties::int, 0) & 8 = 0 order by j.id for update skip locked
)
update "pgqueue".job_live j set ties = coalesce(j.ties::int, 0) | 8 from parent p where j.id = any(array[p.id])
