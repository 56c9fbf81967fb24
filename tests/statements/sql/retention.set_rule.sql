insert into "pgqueue".setting (name, queue, task, value, set_by)
values ('retention.' || %(name)s, %(queue)s, %(task)s, pg_catalog.make_interval(secs => %(seconds)s::float8), %(by)s)
on conflict (name, queue, task, source) do update
set value = excluded.value, set_by = excluded.set_by, set_at = clock_timestamp()
