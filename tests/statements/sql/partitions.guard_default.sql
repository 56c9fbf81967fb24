do $guard_default$
declare
    parents constant text[] := array['job_finished', 'transition', 'activity', 'published_event'];
    keys constant text[] := array['finished_at', 'at', 'at', 'at'];
    today constant date := (now() at time zone 'UTC')::date;
    rest text;
    days date[];
    day date;
begin
    for n in 1 .. pg_catalog.cardinality(parents) loop
        perform pg_catalog.set_config('lock_timeout', '500ms', true);
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        rest := pg_catalog.format('%I.%I', 'pgqueue', parents[n] || '_default');
        continue when pg_catalog.pg_relation_size(rest::regclass) <= 16777216 or not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('make partitions')) or not (
            select pg_catalog.pg_has_role(c.relowner, 'USAGE') from pg_catalog.pg_class c where c.oid = rest::regclass::oid);
        execute pg_catalog.format($days$
            with day as (
                select (%1$I at time zone 'UTC')::date as day, count(*) as rows from %2$s
                where pg_catalog.isfinite(%1$I) group by 1
            ), placed as (
                select d.day, d.rows, d.day between $2 - 1 and $2 + 2 as is_present,
                       (select count(*) from pg_catalog.unnest($1) as h where upper(h) <= d.day) as gap
                from day d
            )
            select coalesce(pg_catalog.array_agg(p.day), '{}') from placed p
            where not p.is_present
            and p.gap <> (select g.gap from placed g group by g.gap
                          order by pg_catalog.bool_or(g.is_present) desc, pg_catalog.sum(g.rows) desc, g.gap desc limit 1)$days$,
            keys[n], rest)
        using (select coalesce(range_agg(daterange(held.first, held.past)), '{}') from (
    select h.parent, pg_catalog.to_date(named[1], 'YYYYMMDD') as first,
           coalesce(pg_catalog.to_date(named[2], 'YYYYMMDD'), pg_catalog.to_date(named[1], 'YYYYMMDD') + 1) as past
    from (values ('job_finished', 'finished_at'), ('transition', 'at'), ('activity', 'at'),
            ('published_event', 'at')) as h(parent, key)
    join pg_catalog.pg_inherits i on i.inhparent = pg_catalog.to_regclass(pg_catalog.format('%I.%I', 'pgqueue'::text, h.parent))::oid
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    cross join lateral pg_catalog.regexp_match(c.relname::text, '_([0-9]{8})(?:_([0-9]{8}))?$') as named
    where named is not null) as held
               where held.parent = parents[n]), today into days;
        foreach day in array days loop
            begin
                execute pg_catalog.format('alter table %s add constraint %I check (%3$I < %4$L or %3$I >= %5$L) not valid', rest,
                               parents[n] || pg_catalog.to_char(day, '"_without_"YYYYMMDD'), keys[n],
                               day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            exception when lock_not_available or duplicate_object then
                raise debug '% keeps %: %', rest, day, sqlerrm;
            end;
        end loop;
        commit;
    end loop;
end
$guard_default$
