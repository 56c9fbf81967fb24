with sent as (
    insert into "pgqueue".signal (job_id, name, data, at)
    select j.id, %(name)s::text, %(data)s::jsonb, clock_timestamp() from "pgqueue".job_live j where j.id = %(job)s::bigint
    returning id
)
select (select id from sent), pg_catalog.has_table_privilege(pg_catalog.format('%%I.job', 'pgqueue'), 'select'),
    case when (select id from sent) is not null and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text then pg_catalog.pg_notify('pgqueue', '!signal') end
