do $make$ begin
    if not exists (select from pg_catalog.pg_roles r where r.rolname = 'pg_monitor') then
        execute pg_catalog.format('create role %I nologin', 'pg_monitor'::text);
        execute pg_catalog.format('comment on role %I is %L', 'pg_monitor'::text, 'pgqueue: sample'::text);
    end if;
end $make$
