with turn as materialized (
    select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('declare subscriptions'))
), given as materialized (
    select g.task, g.patterns, g.expressions, g.queue, g.priority, g.max_attempts, g.tags, g.headers, g.history, g.ttl, g.takes,
    g.whole_as, g.rules, d.declared
    from turn cross join pg_catalog.jsonb_array_elements(%(rows)s::jsonb) as d(declared)
    cross join lateral pg_catalog.jsonb_populate_record(null::"pgqueue".subscription, d.declared) as g
), written as (
    insert into "pgqueue".subscription as s (task, app, declared, patterns, expressions, queue, priority, max_attempts, tags, headers, history, ttl, takes,
    whole_as, rules)
    select g.task, %(app)s, g.declared, g.patterns, g.expressions, g.queue, g.priority, g.max_attempts, g.tags, g.headers, g.history, g.ttl, g.takes,
    g.whole_as, g.rules
    from given g where not exists (
        select from "pgqueue".subscription k where k.task = g.task and k.declared = g.declared and k.app = %(app)s
        and (k.disabled_at is null or k.disabled_by is not null))
    order by g.task
    on conflict (task) do update set (patterns, expressions, queue, priority, max_attempts, tags, headers, history, ttl, takes,
    whole_as, rules, app, declared, declared_at, disabled_at) = (
        select excluded.patterns, excluded.expressions, excluded.queue, excluded.priority, excluded.max_attempts, excluded.tags, excluded.headers, excluded.history, excluded.ttl, excluded.takes,
    excluded.whole_as, excluded.rules, excluded.app, excluded.declared, clock_timestamp(),
               case when s.disabled_by is not null then s.disabled_at end)
    where s.declared is distinct from excluded.declared or s.app <> excluded.app
    or s.disabled_at is not null and s.disabled_by is null
    returning s.id, s.declared
), gone as (
    delete from "pgqueue".subscription_pattern p using written w
    where p.subscription_id = w.id and not exists (
        select from pg_catalog.jsonb_array_elements(w.declared -> 'matching'::text) as m(one)
        where m.one ->> 'anchor'::text = p.anchor and m.one ->> 'pattern'::text = p.pattern)
)
insert into "pgqueue".subscription_pattern (anchor, subscription_id, pattern, expression)
select m.one ->> 'anchor'::text, w.id, m.one ->> 'pattern'::text, m.one ->> 'expression'::text
from written w cross join lateral pg_catalog.jsonb_array_elements(w.declared -> 'matching'::text) as m(one)
on conflict do nothing
