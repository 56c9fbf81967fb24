with held as materialized (
    select c.task from "pgqueue".task_control c where c.paused_at is not null and (c.paused_until is null or c.paused_until > now()) order by c.task for update skip locked
), found as materialized (
    select ready.id
    from (select u.name from pg_catalog.unnest((select %(queues)s::text[])) with ordinality as u(name, ord)
          where exists (select from held) order by u.ord) as served
    cross join lateral (
        with recursive hop(priority) as (
            (select j.priority::smallint from "pgqueue".job_live j where j.state = 'pending' and j.queue::text = served.name
             order by j.priority desc limit 1)
            union all
            select (select j.priority::smallint from "pgqueue".job_live j
                    where j.state = 'pending' and j.queue::text = served.name and j.priority::smallint < hop.priority
                    order by j.priority desc limit 1)
            from hop where hop.priority is not null
        )
        select first.id
        from (select hop.priority from hop where hop.priority is not null order by hop.priority desc) as lane
        cross join lateral (
            select w.id from (
                select j.id, j.task::text as task from "pgqueue".job_live j
                where j.state = 'pending' and j.queue::text = served.name and j.priority::smallint = lane.priority
                and j.run_at::timestamptz <= now()
                order by j.run_at, j.id limit (select %(window)s::int)
            ) as w where w.task = any((select array(select task from held))::text[])
        ) as first
        limit (select %(most)s::int)
    ) as ready
    limit (select %(most)s::int)
), found_in_turn as materialized (
    select turning.id
    from (select u.name from pg_catalog.unnest((select %(queues)s::text[])) with ordinality as u(name, ord)
          where exists (select from held) order by u.ord) as served
    cross join lateral (
        with recursive turn(lane, priority) as (
    (select j.lane, j.priority::smallint from "pgqueue".job_live j
     where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = served.name order by j.lane, j.priority desc limit 1)
    union all
    select following.lane, following.priority from turn cross join lateral (
        (select j.lane, j.priority::smallint as priority from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = served.name and j.lane = turn.lane
         and j.priority::smallint < turn.priority order by j.lane, j.priority desc limit 1)
        union all
        (select j.lane, j.priority::smallint from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = served.name and j.lane > turn.lane
         order by j.lane, j.priority desc limit 1)
        order by lane limit 1) as following
)
        select first.id from turn cross join lateral (
            select w.id from (
                select j.id, j.task::text as task from "pgqueue".job_live j
                where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = served.name and j.lane = turn.lane
                and j.priority::smallint = turn.priority and (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) <= now()
                order by (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit (select %(window)s::int)
            ) as w where w.task = any((select array(select task from held))::text[])
        ) as first
        where turn.lane >= 0
        limit (select %(most)s::int)
    ) as turning
    limit (select %(most)s::int)
), locked as materialized (
    select j.id, j.state from "pgqueue".job_live j
    where j.id = any(array(select id from found union all select id from found_in_turn))
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') is true
    limit (select %(most)s::int) for update skip locked
), moved as (
    update "pgqueue".job_live j set state = 'blocked', waits_for = 'pause'
    from locked where j.id = any(array[locked.id])
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') is true
    returning j.id, locked.state, j.attempt, j.lease, j.history
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, state, 'blocked', attempt, lease, 'task paused' from moved where history
)
select count(*) from moved
