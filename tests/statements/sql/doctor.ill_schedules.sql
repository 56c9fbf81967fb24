select s.name, s.error, s.wake_at from "pgqueue".schedule s
where s.disabled_at is null and s.paused_at is null
and (s.error is not null or s.wake_at < now() - pg_catalog.make_interval(secs => %(late)s::float8))
order by s.error is null, s.wake_at limit 20
