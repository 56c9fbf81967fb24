with turn as materialized (
    select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('declare retention'))
), given as materialized (
    select 'retention.' || g.name as name, g.queue, g.task, pg_catalog.make_interval(secs => g.seconds) as value
    from turn cross join unnest(%(names)s::text[], %(queues)s::text[], %(tasks)s::text[],
                (select pg_catalog.string_to_array(%(seconds)s, ',', '')::float8[])) as g(name, queue, task, seconds)
), dropped as (
    delete from "pgqueue".setting s where s.app = %(app)s::text and s.app <> '' and s.name like 'retention.%%'
    and not exists (select from given g where g.name = s.name and g.queue = s.queue and g.task = s.task)
)
insert into "pgqueue".setting as s (name, queue, task, source, value, app)
select g.name, g.queue, g.task, 'code', g.value, %(app)s from given g
on conflict (name, queue, task, source) do update
set value = excluded.value, app = excluded.app, set_by = excluded.set_by, set_at = clock_timestamp()
where s.value is distinct from excluded.value or s.app <> excluded.app
