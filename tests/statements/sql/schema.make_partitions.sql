do $make_partitions$
declare
    history record;
    day date;
    part text;
begin
    if not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('make partitions')) then
        return;
    end if;
    perform pg_catalog.set_config('lock_timeout', '500ms', true);
    for history in select * from (values ('job_finished', 'finished_at'), ('transition', 'at')) as h(parent, key) loop
        for day in select d::date from pg_catalog.generate_series((now() at time zone 'UTC')::date - 1,
                                                       (now() at time zone 'UTC')::date + 7, interval '1 day') as d loop
            part := history.parent || pg_catalog.to_char(day, '"_"YYYYMMDD');
            continue when pg_catalog.to_regclass(pg_catalog.format('%I.%I', 'pgqueue', part)) is not null
                or pg_catalog.pg_relation_size(pg_catalog.format('%I.%I', 'pgqueue', history.parent || '_default')::regclass) > 16777216;
            begin
                execute pg_catalog.format('create table %I.%I (like %I.%I including defaults including constraints)',
                               'pgqueue', part, 'pgqueue', history.parent);
                execute pg_catalog.format('alter table %I.%I attach partition %I.%I for values from (%L) to (%L)',
                               'pgqueue', history.parent, 'pgqueue', part,
                               day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            exception when check_violation or lock_not_available or insufficient_privilege then
                raise debug 'partition % is left for later: %', part, sqlerrm;
            end;
        end loop;
    end loop;
end
$make_partitions$
