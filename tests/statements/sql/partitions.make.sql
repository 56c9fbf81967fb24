do $make_partitions$
declare
    history record;
    day date;
    part text;
begin
    perform pg_catalog.set_config('lock_timeout', '500ms', true);
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    if not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('make partitions')) then
        return;
    end if;
    for history in select * from (values ('job_finished', 'finished_at'), ('transition', 'at'), ('activity', 'at'),
            ('published_event', 'at')) as h(parent, key) loop
        for day in select d::date from pg_catalog.generate_series((now() at time zone 'UTC')::date - 1,
                                                       (now() at time zone 'UTC')::date + 7, interval '1 day') as d loop
            part := history.parent || pg_catalog.to_char(day, '"_"YYYYMMDD');
            continue when exists (select from (
    select h.parent, pg_catalog.to_date(named[1], 'YYYYMMDD') as first,
           coalesce(pg_catalog.to_date(named[2], 'YYYYMMDD'), pg_catalog.to_date(named[1], 'YYYYMMDD') + 1) as past
    from (values ('job_finished', 'finished_at'), ('transition', 'at'), ('activity', 'at'),
            ('published_event', 'at')) as h(parent, key)
    join pg_catalog.pg_inherits i on i.inhparent = pg_catalog.to_regclass(pg_catalog.format('%I.%I', 'pgqueue'::text, h.parent))::oid
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    cross join lateral pg_catalog.regexp_match(c.relname::text, '_([0-9]{8})(?:_([0-9]{8}))?$') as named
    where named is not null) as held
                                  where held.parent = history.parent and day >= held.first and day < held.past)
                or pg_catalog.pg_relation_size(pg_catalog.format('%I.%I', 'pgqueue', history.parent || '_default')::regclass) > 16777216;
            begin
                execute pg_catalog.format('create table %I.%I (like %I.%I including defaults including constraints)',
                               'pgqueue', part, 'pgqueue', history.parent);
                execute pg_catalog.format('alter table %I.%I attach partition %I.%I for values from (%L) to (%L)',
                               'pgqueue', history.parent, 'pgqueue', part,
                               day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            exception when check_violation or lock_not_available or insufficient_privilege or duplicate_table then
                raise debug 'partition % is left for later: %', part, sqlerrm;
            end;
        end loop;
    end loop;
end
$make_partitions$
