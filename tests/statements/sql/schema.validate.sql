do $validate$
declare
    added record;
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    perform pg_catalog.set_config('lock_timeout', '500ms', true);
    for added in select c.conname, r.relname from pg_catalog.pg_constraint c
        join pg_catalog.pg_class r on r.oid = c.conrelid
        where c.connamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'))
        and not c.convalidated and c.contype = 'c' loop
        begin
            execute pg_catalog.format('alter table %I.%I validate constraint %I', 'pgqueue', added.relname, added.conname);
        exception when check_violation or lock_not_available or insufficient_privilege or deadlock_detected then
            raise debug 'constraint % is validated later: %', added.conname, sqlerrm;
        end;
    end loop;
end
$validate$
