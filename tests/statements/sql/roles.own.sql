do $own$
declare
    owner constant name := 'pg_monitor';
    owner_id constant oid := (select r.oid from pg_catalog.pg_roles r where r.rolname = 'pg_monitor');
    thing record;
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    for thing in
        select 'schema' as kind, pg_catalog.quote_ident(n.nspname::text) as name, n.nspowner as held_by
        from pg_catalog.pg_namespace n where n.nspname = 'pgqueue'
        union all
        select case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                              else 'table' end, c.oid::regclass::text, c.relowner
        from pg_catalog.pg_class c where c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'))::oid
        and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
        and not exists (select from pg_catalog.pg_depend d where d.objid = c.oid and c.relkind = 'S'
                        and d.classid = 'pg_catalog.pg_class'::regclass and d.deptype in ('a', 'i'))
        union all
        select 'function', p.oid::regprocedure::text, p.proowner
        from pg_catalog.pg_proc p where p.pronamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'))::oid
        union all
        select 'domain', t.oid::regtype::text, t.typowner
        from pg_catalog.pg_type t
        where t.typnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'))::oid and t.typtype = 'd'
    loop
        continue when thing.held_by = owner_id;
        if not pg_catalog.pg_has_role(current_user, owner, 'USAGE') then
            execute pg_catalog.format('grant %I to %I', owner, current_user);
        end if;
        if not (select r.rolsuper from pg_catalog.pg_roles r where r.oid = thing.held_by)
           and not pg_catalog.pg_has_role(thing.held_by, owner, 'USAGE') then
            execute pg_catalog.format('grant %I to %s', owner, thing.held_by::regrole);
        end if;
        execute pg_catalog.format('alter %s %s owner to %I', thing.kind, thing.name, owner);
    end loop;
end
$own$
