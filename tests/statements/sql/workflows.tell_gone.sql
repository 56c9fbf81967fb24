with looked as materialized (
    select c.number, c.child_id from "pgqueue".call c
    where not c.ended and c.number >= %(number)s::bigint
    and (c.number, c.child_id) > (%(number)s::bigint, %(child)s::bigint) and %(worker)s::uuid = (
        select w.id from "pgqueue".worker w where w.kind = 'worker' and w.lost_at is null and not w.stopping
        and w.heartbeat_at > now() - pg_catalog.make_interval(secs => w.lease_seconds) order by w.id limit 1)
    order by c.number, c.child_id limit %(at_most)s::int
), gone as materialized (
    select c.child_id from "pgqueue".call c
    where c.child_id = any(array(
        select l.child_id from looked l
        where (select true from "pgqueue".job_live j where j.id = l.child_id limit 1) is null))
    and not c.ended order by c.child_id for update skip locked
), marked as (
    update "pgqueue".call c set ended = true, seen = false
    where c.child_id = any(array(select child_id from gone)) returning c.child_id, c.job_id, c.step
)
select child_id, job_id, step, false from marked
union all
select l.number, l.child_id, null, true from (
    select * from looked order by number desc, child_id desc limit 1) as l
where (select count(*) from looked) = %(at_most)s::int
