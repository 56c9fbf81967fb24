with recursive name as (
    (select f.schedule from "pgqueue".schedule_fire f order by f.schedule limit 1)
    union all
    select (select f.schedule from "pgqueue".schedule_fire f where f.schedule > n.schedule order by f.schedule limit 1)
    from name n where n.schedule is not null
), old as materialized (
    select f.schedule, f.tick from name n cross join lateral (
        select f.schedule, f.tick from "pgqueue".schedule_fire f
        where f.schedule = n.schedule and f.outcome <> 'queued'
        and f.tick < now() - (select r.value from "pgqueue".retention r where r.name = 'ticks')
        and f.tick < (select l.tick from "pgqueue".schedule_fire l where l.schedule = n.schedule
                      order by l.tick desc limit 1)
        order by f.tick limit %(at_most)s for update skip locked) as f
), gone as (
    delete from "pgqueue".schedule_fire f using old o where f.schedule = any(array[o.schedule]) and f.tick = o.tick
)
select count(*) from old
