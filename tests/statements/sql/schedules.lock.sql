select name, to_jsonb(s) - 'args' - 'declared', args::text, clock_timestamp() from "pgqueue".schedule s where name = %(name)s for update
