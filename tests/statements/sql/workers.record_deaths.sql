with found as materialized (
    select id from "pgqueue".worker where id = any(%(ids)s::uuid[]) order by id for update
), dead as (
    update "pgqueue".worker w set lost_at = coalesce(w.lost_at, clock_timestamp()), death = d.death, waiting = false
    from found join unnest(%(ids)s::uuid[], %(deaths)s::text[]) as d(id, death) on d.id = found.id
    where w.id = found.id returning w.id
)
select (select count(*) from dead), pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!rescue'))
from dead where pg_notification_queue_usage() < 0.5::float8
