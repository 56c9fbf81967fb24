with looked as materialized (
    select j.id, j.workflow_id, j.waits_on, (j.waits_for = 'jobs') is true and j.cancel_requested_at is null as waits
    from "pgqueue".job_live j
    where j.workflow_id is not null and (j.workflow_id, j.id) > (%(workflow)s::bigint, %(job)s::bigint)
    and %(worker)s::uuid = (
        select w.id from "pgqueue".worker w where w.kind = 'worker' and w.lost_at is null and not w.stopping
        and w.heartbeat_at > now() - pg_catalog.make_interval(secs => w.lease_seconds) order by w.id limit 1)
    order by j.workflow_id, j.id limit %(at_most)s::int
), old as materialized (
    select w.id from (select distinct workflow_id from looked) as l cross join lateral (
        select w.id from "pgqueue".workflow w
        where w.id = l.workflow_id and w.created_at < now() - interval '1 hour' limit 1) as w
), stuck as materialized (
    select l.id, l.waits_on from looked l cross join lateral (
        select count(*) filter (where ((select true from "pgqueue".job_live p where p.id = d.parent_id limit 1) is not null
        or (select true from "pgqueue".workflow w where w.id = d.parent_id and not w.settled limit 1) is not null
        or (select true from "pgqueue".dead_letter p
            where p.id = d.parent_id and p.ties::int & 16 > 0 limit 1) is not null)) as left_over, coalesce(pg_catalog.bool_or(d.late), false) as late
        from "pgqueue".dependency d where d.child_id = l.id) as e
    where l.waits and l.workflow_id in (select id from old) and l.waits_on > e.left_over and not e.late
), held as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = any(array(select id from stuck)) order by j.id for update skip locked
), doomed as (
    update "pgqueue".job_live j set cancel_requested_at = now() from stuck
    where j.id = any(array[stuck.id]) and stuck.id in (select id from held) and (j.waits_for = 'jobs') is true
    and j.waits_on = stuck.waits_on and j.cancel_requested_at is null
    returning j.id, j.task::text, j.workflow_id, j.attempt, j.lease
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'blocked', 'blocked', attempt, lease, 'parent gone' from doomed
)
select id, task, workflow_id, false from doomed
union all
select l.id, null, l.workflow_id, true from (
    select * from looked order by workflow_id desc, id desc limit 1) as l
where (select count(*) from looked) = %(at_most)s::int and l.workflow_id in (select id from old)
