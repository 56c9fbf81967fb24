select name, pg_catalog.to_jsonb(s) - '{args,declared,options,edit_asked}'::text[], options::text, edit_asked::text, args::text,
    array[every_seconds, jitter_seconds, grace_seconds], clock_timestamp() from "pgqueue".schedule s
where wake_at > '-infinity' and wake_at <= (select clock_timestamp()) and not name = any(%(excluded)s::text[])
order by wake_at limit %(at_most)s for update skip locked
