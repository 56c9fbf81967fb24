with turn as materialized (
    select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('declare limits'))
), given as materialized (
    select g.* from turn cross join pg_catalog.jsonb_to_recordset(%(rules)s::jsonb) as g(
        name text, kind text, max_running int, rate_count int, rate_seconds float8, rate_burst int, rate_strict boolean,
        scope text, on_full text, on_dead text, breaker_failures int, breaker_seconds float8, breaker_cooldown float8,
        declared jsonb)
), joined as (
    update "pgqueue".limit_rule r set declared_by = pg_catalog.array_append(r.declared_by, %(app)s::text)
    from given g where r.name = g.name and r.declared = g.declared and not %(app)s::text = any(r.declared_by)
), left_out as (
    update "pgqueue".limit_rule r set declared_by = pg_catalog.array_remove(r.declared_by, %(app)s::text)
    where %(app)s::text <> '' and %(app)s::text = any(r.declared_by) and not exists (
        select from given g where g.name = r.name)
)
insert into "pgqueue".limit_rule as r (name, kind, max_running, rate_count, rate_seconds, rate_burst, rate_strict, scope,
    on_full, on_dead, breaker_failures, breaker_seconds, breaker_cooldown, declared, declared_by)
select g.name, g.kind, g.max_running, g.rate_count, g.rate_seconds, g.rate_burst, g.rate_strict, g.scope, g.on_full,
       g.on_dead, g.breaker_failures, g.breaker_seconds, g.breaker_cooldown, g.declared, array[%(app)s::text]
from given g where not exists (select from "pgqueue".limit_rule k where k.name = g.name and k.declared = g.declared)
order by g.name
on conflict (name) do update set kind = excluded.kind, max_running = excluded.max_running,
    rate_count = excluded.rate_count, rate_seconds = excluded.rate_seconds, rate_burst = excluded.rate_burst,
    rate_strict = excluded.rate_strict, scope = excluded.scope, on_full = excluded.on_full, on_dead = excluded.on_dead,
    breaker_failures = excluded.breaker_failures, breaker_seconds = excluded.breaker_seconds,
    breaker_cooldown = excluded.breaker_cooldown, declared = excluded.declared,
    declared_by = pg_catalog.array_append(pg_catalog.array_remove(r.declared_by, %(app)s::text), %(app)s::text),
    updated_at = clock_timestamp(), updated_by = null
where r.declared is distinct from excluded.declared
