do $outgrow_default$
declare
    parents constant text[] := array['job_finished', 'transition', 'activity', 'published_event'];
    rest text;
    stretch text;
    bounds text[];
begin
    for n in 1 .. pg_catalog.cardinality(parents) loop
        perform pg_catalog.set_config('lock_timeout', '500ms', true);
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        rest := pg_catalog.format('%I.%I', 'pgqueue', parents[n] || '_default');
        stretch := (
            select c.conname from pg_catalog.pg_constraint c
            where c.conrelid = rest::regclass::oid and c.conname::text ~ '_[0-9]{8}_[0-9]{8}$');
        continue when stretch is null;
        exit when not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('make partitions'));
        bounds := pg_catalog.regexp_match(stretch, '([0-9]{8})_([0-9]{8})$');
        begin
            execute pg_catalog.format('alter table %s validate constraint %I', rest, stretch);
            execute pg_catalog.format('lock table %I.%I, %s in access exclusive mode', 'pgqueue', parents[n], rest);
            execute pg_catalog.format('alter table %I.%I detach partition %s', 'pgqueue', parents[n], rest);
            execute pg_catalog.format('alter table %s rename to %I', rest, stretch);
            execute pg_catalog.format('create table %s (like %I.%I including defaults including constraints)',
                           rest, 'pgqueue', parents[n]);
            execute pg_catalog.format('alter table %I.%I attach partition %s default', 'pgqueue', parents[n], rest);
            execute pg_catalog.format('alter table %1$I.%2$I attach partition %1$I.%3$I for values from (%4$L) to (%5$L)',
                           'pgqueue', parents[n], stretch, pg_catalog.to_date(bounds[1], 'YYYYMMDD') || ' 00:00:00+00',
                           pg_catalog.to_date(bounds[2], 'YYYYMMDD') || ' 00:00:00+00');
            execute pg_catalog.format('alter table %1$I.%2$I drop constraint %2$I', 'pgqueue', stretch);
        exception
            when check_violation then
                execute pg_catalog.format('alter table %s drop constraint %I', rest, stretch);
            when lock_not_available or deadlock_detected or duplicate_table or invalid_object_definition
                 or insufficient_privilege then
                raise debug '% stays the default partition: %', rest, sqlerrm;
        end;
        commit;
    end loop;
end
$outgrow_default$
