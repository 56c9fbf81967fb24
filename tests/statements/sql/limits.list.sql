select l.rule, l.key, l.kind, l.keyed_by, l.max_running, l.running, l.waiting, l.waiting_capped,
       l.rate_count, l.rate_seconds, l.rate_burst, l.rate_strict, l.scope, l.on_full, l.on_dead, l.weight,
       l.breaker_failures, l.breaker_seconds, l.breaker_cooldown, l.closed_until, l.paused_at, l.paused_until,
       l.paused_by, l.paused_why, l.declared_by, l.in_code, l.updated_at, l.updated_by from "pgqueue".limits l where %(rule)s::text is null or l.rule = %(rule)s::text
order by l.rule, l.key nulls first
