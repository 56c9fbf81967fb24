select name, to_jsonb(s) - 'args' - 'declared', args::text, clock_timestamp() from "pgqueue".schedule s
where wake_at > '-infinity' and wake_at <= (select clock_timestamp()) and not name = any(%(excluded)s::text[])
order by wake_at limit %(at_most)s for update skip locked
