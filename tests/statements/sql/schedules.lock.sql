select name, pg_catalog.to_jsonb(s) - '{args,declared,options,edit_asked}'::text[], options::text, edit_asked::text, args::text,
    array[every_seconds, jitter_seconds, grace_seconds], clock_timestamp() from "pgqueue".schedule s where name = %(name)s for update
