select h.parent, pg_catalog.min(d.day)::date, pg_catalog.count(d.day)::int, size.bytes
from (values ('job_finished', 'finished_at'), ('transition', 'at'), ('activity', 'at'),
            ('published_event', 'at')) as h(parent, key)
cross join lateral (
    select coalesce(pg_catalog.pg_relation_size(pg_catalog.to_regclass(pg_catalog.format('%I.%I', 'pgqueue'::text, h.parent || '_default'))), 0)
) as size(bytes)
left join lateral (
    select d.day from pg_catalog.generate_series((now() at time zone 'UTC')::date, (now() at time zone 'UTC')::date + 6,
                                      interval '1 day') as d(day)
    where not exists (select from (
    select h.parent, pg_catalog.to_date(named[1], 'YYYYMMDD') as first,
           coalesce(pg_catalog.to_date(named[2], 'YYYYMMDD'), pg_catalog.to_date(named[1], 'YYYYMMDD') + 1) as past
    from (values ('job_finished', 'finished_at'), ('transition', 'at'), ('activity', 'at'),
            ('published_event', 'at')) as h(parent, key)
    join pg_catalog.pg_inherits i on i.inhparent = pg_catalog.to_regclass(pg_catalog.format('%I.%I', 'pgqueue'::text, h.parent))::oid
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    cross join lateral pg_catalog.regexp_match(c.relname::text, '_([0-9]{8})(?:_([0-9]{8}))?$') as named
    where named is not null) as held
                      where held.parent = h.parent and d.day >= held.first and d.day < held.past)
) as d on true
group by h.parent, size.bytes
order by h.parent
