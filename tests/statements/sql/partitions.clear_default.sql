do $clear_default$
declare
    parents constant text[] := array['job_finished', 'transition', 'activity', 'published_event'];
    keys constant text[] := array['finished_at', 'at', 'at', 'at'];
    rest text;
    guard text;
    part text;
    day date;
begin
    for n in 1 .. pg_catalog.cardinality(parents) loop
        rest := pg_catalog.format('%I.%I', 'pgqueue', parents[n] || '_default');
        for guard in select c.conname from pg_catalog.pg_constraint c
                     where c.conrelid = rest::regclass::oid and c.conname::text ~ '_without_[0-9]{8}$' loop
            perform pg_catalog.set_config('lock_timeout', '500ms', true);
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
            exit when not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('make partitions'));
            day := pg_catalog.to_date(right(guard, 8), 'YYYYMMDD');
            part := parents[n] || pg_catalog.to_char(day, '"_"YYYYMMDD');
            begin
                execute pg_catalog.format('create table %I.%I (like %I.%I including defaults including constraints
                                including indexes)', 'pgqueue', part, 'pgqueue', parents[n]);
                execute pg_catalog.format('with moved as (delete from %1$s where %2$I >= %3$L and %2$I < %4$L returning *)
                                insert into %5$I.%6$I select * from moved', rest, keys[n], day || ' 00:00:00+00',
                               day + 1 || ' 00:00:00+00', 'pgqueue', part);
                execute pg_catalog.format('alter table %s validate constraint %I', rest, guard);
                execute pg_catalog.format('lock table only %I.%I in access exclusive mode', 'pgqueue', parents[n]);
                execute pg_catalog.format('alter table %I.%I attach partition %I.%I for values from (%L) to (%L)',
                               'pgqueue', parents[n], 'pgqueue', part,
                               day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            exception when lock_not_available or deadlock_detected or check_violation or duplicate_table
                      or invalid_object_definition then
                raise debug 'rows of % stay in %: %', day, rest, sqlerrm;
            end;
            begin
                execute pg_catalog.format('alter table %s drop constraint %I', rest, guard);
            exception when lock_not_available or insufficient_privilege then
                raise debug '% keeps %: %', rest, guard, sqlerrm;
            end;
            commit;
        end loop;
    end loop;
end
$clear_default$
