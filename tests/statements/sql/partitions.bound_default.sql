do $bound_default$
declare
    parents constant text[] := array['job_finished', 'transition', 'activity', 'published_event'];
    keys constant text[] := array['finished_at', 'at', 'at', 'at'];
    today constant date := (now() at time zone 'UTC')::date;
    rest text;
    stretch text;
    held datemultirange;
    old daterange;
    bounds daterange;
begin
    for n in 1 .. pg_catalog.cardinality(parents) loop
        perform pg_catalog.set_config('lock_timeout', '500ms', true);
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        rest := pg_catalog.format('%I.%I', 'pgqueue', parents[n] || '_default');
        continue when pg_catalog.pg_relation_size(rest::regclass) <= 16777216 or not (
            select pg_catalog.pg_has_role(c.relowner, 'USAGE') from pg_catalog.pg_class c where c.oid = rest::regclass::oid);
        exit when not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('make partitions'));
        held := (select coalesce(range_agg(daterange(held.first, held.past)), '{}') from (
    select h.parent, pg_catalog.to_date(named[1], 'YYYYMMDD') as first,
           coalesce(pg_catalog.to_date(named[2], 'YYYYMMDD'), pg_catalog.to_date(named[1], 'YYYYMMDD') + 1) as past
    from (values ('job_finished', 'finished_at'), ('transition', 'at'), ('activity', 'at'),
            ('published_event', 'at')) as h(parent, key)
    join pg_catalog.pg_inherits i on i.inhparent = pg_catalog.to_regclass(pg_catalog.format('%I.%I', 'pgqueue'::text, h.parent))::oid
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    cross join lateral pg_catalog.regexp_match(c.relname::text, '_([0-9]{8})(?:_([0-9]{8}))?$') as named
    where named is not null) as held
                 where held.parent = parents[n]);
        stretch := (
            select c.conname from pg_catalog.pg_constraint c
            where c.conrelid = rest::regclass::oid and c.conname::text ~ '_[0-9]{8}_[0-9]{8}$');
        if stretch is not null then
            bounds := daterange(pg_catalog.to_date(left(right(stretch, 17), 8), 'YYYYMMDD'),
                                pg_catalog.to_date(right(stretch, 8), 'YYYYMMDD'));
        else
            execute pg_catalog.format('select daterange((pg_catalog.min(%1$I) at time zone ''UTC'')::date,
                                             (pg_catalog.max(%1$I) at time zone ''UTC'')::date, ''[]'') from %2$s', keys[n], rest)
            into old;
            continue when lower(old) is null or upper(old) > today + 8 or held && old;
            select daterange(greatest(least(lower(old), today - 1), pg_catalog.max(upper(h)) filter (where h << old)),
                             least(greatest(upper(old), today + 1) + 7, pg_catalog.min(lower(h)) filter (where h >> old)))
            into bounds from pg_catalog.unnest(held) as h;
        end if;
        begin
            if held + bounds::datemultirange @> daterange(today - 1, today + 3, '[]') = (stretch is not null) then
                continue;
            elsif stretch is not null then
                execute pg_catalog.format('alter table %s drop constraint %I', rest, stretch);
            else
                stretch := parents[n] || pg_catalog.to_char(lower(bounds), '"_"YYYYMMDD') || pg_catalog.to_char(upper(bounds), '"_"YYYYMMDD');
                execute pg_catalog.format('alter table %s add constraint %I check (%3$I >= %4$L and %3$I < %5$L) not valid',
                               rest, stretch, keys[n],
                               lower(bounds) || ' 00:00:00+00', upper(bounds) || ' 00:00:00+00');
            end if;
        exception when lock_not_available then
            raise debug '% stays as it is: %', rest, sqlerrm;
        end;
        commit;
    end loop;
end
$bound_default$
