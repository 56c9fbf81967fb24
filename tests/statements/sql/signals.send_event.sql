with sent as (
    insert into "pgqueue".awaited_event (name, key, data, at)
    values (%(name)s::text, %(key)s::text, %(data)s::jsonb, clock_timestamp()) returning id
)
select sent.id, case when pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text then pg_catalog.pg_notify('pgqueue', '!signal') end from sent
