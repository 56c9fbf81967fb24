select pg_catalog.count(pg_catalog.pg_notify('pgqueue', g.queue)) from pg_catalog.unnest((select %(queues)s::text[])) as g(queue)
where exists (
    select from "pgqueue".worker w where w.waiting and g.queue = any(w.queues) and w.id <> (select %(worker)s::uuid))
and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
