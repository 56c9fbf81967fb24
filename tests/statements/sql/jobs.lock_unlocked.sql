with free as materialized (
    select j.id from (select unnest(%(ids)s::bigint[]) as id) as g
    join "pgqueue".job_live j on j.id = any(array[g.id]) order by j.id for update of j skip locked
)
select j.id from (select unnest(%(ids)s::bigint[]) as id) as g
join "pgqueue".job_live j on j.id = any(array[g.id]) where j.id not in (select id from free)
