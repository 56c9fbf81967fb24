with keep as (
    select case when pg_catalog.bool_and(r.value is not null) then pg_catalog.max(r.value) end as age
    from "pgqueue".retention r where r.name in ('succeeded', 'cancelled')
), part as materialized (
    select s.last_day::timestamp at time zone 'UTC' as past from "pgqueue".partition_status s
    where s.history = 'job_finished' and not s.is_default
)
select w.id, w.name, w.created_at, held.parts from (
    select w.id, w.name, w.created_at from "pgqueue".workflow w
    where not w.settled and w.root_id = w.id and w.created_at < now() - (select age from keep)
    order by w.created_at limit 10) as w
cross join lateral (
    select count(*) as parts from part p
    where p.past + interval '1 day' <= now() - (select age from keep) and p.past + interval '2 days' > w.created_at
) as held
where held.parts > 0 order by w.created_at
