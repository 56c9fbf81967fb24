select schedule, tick, by from "pgqueue".schedule_fire where outcome = 'queued' and schedule = any(%(names)s::text[])
order by tick
