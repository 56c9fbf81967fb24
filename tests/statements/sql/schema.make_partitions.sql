do $make_partitions$
declare
    history record;
    day date;
    part text;
begin
    if not pg_try_advisory_xact_lock(hashtext('pgqueue'), hashtext('make partitions')) then
        return;
    end if;
    perform set_config('lock_timeout', '500ms', true);
    for history in select * from (values ('job_finished', 'finished_at'), ('transition', 'at')) as h(parent, key) loop
        for day in select d::date from generate_series((now() at time zone 'UTC')::date - 1,
                                                       (now() at time zone 'UTC')::date + 7, interval '1 day') as d loop
            part := history.parent || to_char(day, '"_"YYYYMMDD');
            continue when to_regclass(format('%I.%I', 'pgqueue', part)) is not null
                or pg_relation_size(format('%I.%I', 'pgqueue', history.parent || '_default')::regclass) > 16777216;
            begin
                execute format('create table %I.%I (like %I.%I including defaults including constraints)',
                               'pgqueue', part, 'pgqueue', history.parent);
                execute format('alter table %I.%I attach partition %I.%I for values from (%L) to (%L)',
                               'pgqueue', history.parent, 'pgqueue', part,
                               day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            exception when check_violation or lock_not_available or insufficient_privilege then
                raise debug 'partition % is left for later: %', part, sqlerrm;
            end;
        end loop;
    end loop;
end
$make_partitions$
