with recursive owner(job_id, n) as (
    (select t.job_id, 1 from "pgqueue".step t where t.job_id > %(steps)s::bigint order by t.job_id limit 1)
    union all
    select (select t.job_id from "pgqueue".step t where t.job_id > o.job_id order by t.job_id limit 1), o.n + 1
    from owner o where o.job_id is not null and o.n < %(at_most)s::int
), letter as materialized (
    select g.id, g.job_id, g.seen from "pgqueue".signal g where g.id > %(signals)s::bigint
    order by g.id limit %(at_most)s::int
), undone as materialized (
    select u.job_id, u.number, u.ended_at from "pgqueue".undo u where u.job_id > %(undos)s::bigint
    order by u.job_id, u.number limit %(at_most)s::int
), event as materialized (
    select e.id, e.at from "pgqueue".awaited_event e order by e.id limit %(at_most)s::int
), called as materialized (
    select c.child_id, c.job_id, c.step, c.number from "pgqueue".call c where c.child_id > %(calls)s::bigint
    order by c.child_id limit %(at_most)s::int
), gone as materialized (
    select o.job_id from (
        select job_id from owner where job_id is not null
        union select job_id from undone where ended_at is not null) as o
    where (select j.id from "pgqueue".job_live j where j.id = o.job_id limit 1) is null
    and (select j.id from "pgqueue".dead_letter j where j.id = o.job_id limit 1) is null
    and (select j.id from "pgqueue".job_finished j where j.id = o.job_id limit 1) is null
), no_steps as (
    delete from "pgqueue".step t where t.job_id = any(array(select job_id from gone))
), no_undos as (
    delete from "pgqueue".undo u using undone o
    where u.job_id = any(array[o.job_id]) and u.number = o.number and o.ended_at is not null
    and o.job_id in (select job_id from gone)
), no_signals as (
    delete from "pgqueue".signal g where g.id = any(array(
        select l.id from letter l where l.seen
        and (select j.id from "pgqueue".job_live j where j.id = l.job_id limit 1) is null
        and (select j.id from "pgqueue".dead_letter j where j.id = l.job_id limit 1) is null))
), no_events as (
    delete from "pgqueue".awaited_event e where e.id = any(array(
        select o.id from event o where o.at < now() - interval '7 days'))
), no_calls as (
    delete from "pgqueue".call c using called o
    where c.child_id = any(array[o.child_id])
    and (select t.number from "pgqueue".step t where t.job_id = o.job_id and t.name = o.step limit 1)
        is distinct from o.number
    and (select j.id from "pgqueue".job_live j where j.id = o.child_id limit 1) is null
)
select coalesce((select case when count(*) < %(at_most)s::int then 0 else pg_catalog.max(job_id) end from owner), 0),
       coalesce((select case when count(*) < %(at_most)s::int then 0 else pg_catalog.max(id) end from letter), 0),
       coalesce((select case when count(*) < %(at_most)s::int then 0 else pg_catalog.max(job_id) end from undone), 0),
       coalesce((select case when count(*) < %(at_most)s::int then 0 else pg_catalog.max(child_id) end from called), 0)
