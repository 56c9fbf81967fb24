with old as materialized (
    select p.id from "pgqueue".operation p
    where p.ended_at < now() - (select r.value from "pgqueue".retention r where r.name = 'operations')
    order by p.id limit %(at_most)s for update skip locked
), gone as (
    delete from "pgqueue".operation p using old o where p.id = any(array[o.id])
)
select count(*) from old
