select name from "pgqueue".schedule_ahead where stale_at > '-infinity' and stale_at <= (select clock_timestamp())
order by stale_at limit %(at_most)s for update skip locked
