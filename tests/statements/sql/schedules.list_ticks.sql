select schedule, tick, outcome, reason, job_id, by from "pgqueue".schedule_fire
where schedule >= %(name)s and (schedule, tick) < (%(name)s, coalesce(%(before)s::timestamptz, 'infinity'))
order by schedule desc, tick desc limit %(limit)s
