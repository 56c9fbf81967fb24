select f.schedule, f.tick from "pgqueue".schedule_fire f
join unnest(%(schedules)s::text[], %(ticks)s::timestamptz[]) as t(schedule, tick) using (schedule, tick)
