do $split_default$
declare
    parents constant text[] := array['job_finished', 'transition', 'activity', 'published_event'];
    keys constant text[] := array['finished_at', 'at', 'at', 'at'];
    rest text;
    day date;
    part text;
    move text;
begin
    for n in 1 .. pg_catalog.cardinality(parents) loop
        perform pg_catalog.set_config('lock_timeout', '500ms', true);
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        rest := pg_catalog.format('%I.%I', 'pgqueue', parents[n] || '_default');
        continue when pg_catalog.pg_relation_size(rest::regclass) not between 1 and 16777216 or not (
            select pg_catalog.pg_has_role(c.relowner, 'USAGE') from pg_catalog.pg_class c where c.oid = rest::regclass::oid);
        for day in execute pg_catalog.format('select distinct (%1$I at time zone ''UTC'')::date from %2$s where pg_catalog.isfinite(%1$I)
                                   order by 1 desc', keys[n], rest) loop
            perform pg_catalog.set_config('lock_timeout', '500ms', true);
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
            exit when not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('make partitions'));
            part := parents[n] || pg_catalog.to_char(day, '"_"YYYYMMDD');
            move := pg_catalog.format('with moved as (delete from %1$s where %2$I >= %3$L and %2$I < %4$L returning *)
                            insert into %5$I.%6$I select * from moved', rest, keys[n], day || ' 00:00:00+00',
                           day + 1 || ' 00:00:00+00', 'pgqueue', part);
            begin
                execute pg_catalog.format('create table %I.%I (like %I.%I including defaults including constraints
                                including indexes)', 'pgqueue', part, 'pgqueue', parents[n]);
                execute move;
                execute pg_catalog.format('lock table only %I.%I, %s in access exclusive mode', 'pgqueue', parents[n], rest);
                execute move;
                execute pg_catalog.format('alter table %I.%I attach partition %I.%I for values from (%L) to (%L)',
                               'pgqueue', parents[n], 'pgqueue', part,
                               day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            exception when lock_not_available or deadlock_detected or check_violation or insufficient_privilege
                      or duplicate_table or invalid_object_definition then
                raise debug 'rows of % stay in %: %', day, rest, sqlerrm;
            end;
            commit;
        end loop;
    end loop;
end
$split_default$
