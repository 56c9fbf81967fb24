"""Roles and their privileges: what a schema has granted, and the statements that change it."""

from collections.abc import Sequence
from typing import Literal, LiteralString, NamedTuple

from psycopg import sql

from pgqueue.queries.base import Query, Statements, fill, first_value, nothing

Kind = Literal["schema", "table", "sequence", "function", "type"]
PUBLIC = ""  # the grantee of what everybody may do

# Find the prefix of the roles that were applied to this schema: its owner is called PREFIX_owner, and has let
# PREFIX_worker call maintain(). Nothing else grants that, so roles that only happen to have such names are left alone.
# None where this role may not act as the owner, and so can grant nothing.
FIND_PREFIX: LiteralString = """
select pg_catalog.left(o.rolname::text, -6)
from pg_catalog.pg_namespace n
join pg_catalog.pg_roles o on o.oid = n.nspowner and pg_has_role(o.oid, 'USAGE')
    and pg_catalog.right(o.rolname::text, 6) = '_owner'
join pg_catalog.pg_proc p on p.pronamespace = n.oid and p.proname = 'maintain'
cross join lateral aclexplode(p.proacl) as a
join pg_catalog.pg_roles w on w.oid = a.grantee and w.rolname = pg_catalog.left(o.rolname::text, -6) || '_worker'
where n.nspname = {channel} limit 1"""

# Tell which of these roles exist.
EXISTING: LiteralString = "select rolname::text from pg_catalog.pg_roles where rolname = any(%(names)s::text[])"

# Every access list of the schema: of itself, of relations and their columns, of functions and of domains. An object
# that was never granted has none, and means its default.
_LISTS: LiteralString = """
    select 'schema' as kind, '' as object, '' as column, n.nspowner as owner,
           coalesce(n.nspacl, acldefault('n', n.nspowner)) as list
    from pg_catalog.pg_namespace n where n.nspname = {channel}
    union all
    select case c.relkind when 'S' then 'sequence' else 'table' end, c.relname::text, '', c.relowner, c.relacl
    from pg_catalog.pg_class c where c.relnamespace = to_regnamespace(quote_ident({channel}))::oid
    and c.relacl is not null and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    union all
    select 'table', c.relname::text, a.attname::text, c.relowner, a.attacl
    from pg_catalog.pg_class c join pg_catalog.pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = to_regnamespace(quote_ident({channel}))::oid and a.attacl is not null and not a.attisdropped
    union all
    select 'function', p.proname::text, '', p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
    from pg_catalog.pg_proc p where p.pronamespace = to_regnamespace(quote_ident({channel}))::oid
    union all
    select 'type', t.typname::text, '', t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
    from pg_catalog.pg_type t where t.typnamespace = to_regnamespace(quote_ident({channel}))::oid and t.typtype = 'd'"""

# Read what these roles, and everybody, were granted in the schema. What an owner may do by itself is left out.
PRIVILEGES: LiteralString = fill(
    """
select coalesce(r.rolname::text, ''), l.kind, l.object, l.column, pg_catalog.lower(a.privilege_type)
from ({lists}) as l
cross join lateral aclexplode(l.list) as a
left join pg_catalog.pg_roles r on r.oid = a.grantee
where a.grantee <> l.owner and (a.grantee = 0::oid or r.rolname = any(%(names)s::text[]))""",
    lists=_LISTS,
)

# Give the schema and all in it to its owner, and let whoever owned a part of it act as the owner: what runs as that
# role goes on. A sequence of a column and the index of a table go with them. Each `alter` locks its object until the
# end of the transaction; where all belongs to the owner already, nothing is locked.
_OWN: LiteralString = """
do $own$
declare
    owner constant name := {owner};
    owner_id constant oid := (select r.oid from pg_catalog.pg_roles r where r.rolname = {owner});
    thing record;
begin
    perform set_config('search_path', 'pg_catalog, pg_temp', true);
    for thing in
        select 'schema' as kind, quote_ident(n.nspname::text) as name, n.nspowner as held_by
        from pg_catalog.pg_namespace n where n.nspname = {channel}
        union all
        select case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                              else 'table' end, c.oid::regclass::text, c.relowner
        from pg_catalog.pg_class c where c.relnamespace = to_regnamespace(quote_ident({channel}))::oid
        and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
        and not exists (select from pg_catalog.pg_depend d where d.objid = c.oid and c.relkind = 'S'
                        and d.classid = 'pg_catalog.pg_class'::regclass and d.deptype in ('a', 'i'))
        union all
        select 'function', p.oid::regprocedure::text, p.proowner
        from pg_catalog.pg_proc p where p.pronamespace = to_regnamespace(quote_ident({channel}))::oid
        union all
        select 'domain', t.oid::regtype::text, t.typowner
        from pg_catalog.pg_type t
        where t.typnamespace = to_regnamespace(quote_ident({channel}))::oid and t.typtype = 'd'
    loop
        continue when thing.held_by = owner_id;
        if not pg_has_role(current_user, owner, 'USAGE') then
            execute format('grant %I to %I', owner, current_user);
        end if;
        if not (select r.rolsuper from pg_catalog.pg_roles r where r.oid = thing.held_by)
           and not pg_has_role(thing.held_by, owner, 'USAGE') then
            execute format('grant %I to %s', owner, thing.held_by::regrole);
        end if;
        execute format('alter %s %s owner to %I', thing.kind, thing.name, owner);
    end loop;
end
$own$"""

# Make a role that cannot log in, unless there is one of that name.
_MAKE: LiteralString = """
do $make$ begin
    if not exists (select from pg_catalog.pg_roles r where r.rolname = {name}) then
        execute format('create role %I nologin', {name}::text);
        execute format('comment on role %I is %L', {name}::text, {meaning}::text);
    end if;
end $make$"""

# Take from these roles, and from everybody, what they were granted. A revoke of what was never granted does nothing.
_TAKE_ALL: LiteralString = """
do $revoke$ begin
    revoke all on all tables in schema {s} from public, {roles};
    revoke all on all sequences in schema {s} from public, {roles};
    revoke all on all functions in schema {s} from public, {roles};
    revoke all on schema {s} from public, {roles};
end $revoke$"""


class Grant(NamedTuple):
    """A privilege of a role on an object of the schema, or on one column of it."""

    role: str
    kind: Kind
    object: str
    column: str
    privilege: str


# What a privilege is granted on, and the privileges in the order in which they are written.
_ON: dict[Kind, LiteralString] = {
    "schema": "schema {s}", "table": "table {s}.{name}", "sequence": "sequence {s}.{name}",
    "function": "function {s}.{name}", "type": "type {s}.{name}",
}  # fmt: skip
_PRIVILEGES: tuple[LiteralString, ...] = (
    "select", "insert", "update", "delete", "truncate", "references", "trigger", "maintain", "usage", "execute",
    "create",
)  # fmt: skip


class RoleQueries(Statements):
    """Roles and their privileges."""

    def find_prefix(self) -> Query[str | None]:
        """Return what the names of the roles begin with that were applied to the schema, if this role owns it."""
        return Query(self._sql(FIND_PREFIX), first_value)

    def existing(self, names: Sequence[str]) -> Query[set[str]]:
        """Return which of these roles exist."""
        return Query(self._sql(EXISTING), lambda rows: {row[0] for row in rows}, {"names": list(names)})

    def privileges(self, names: Sequence[str]) -> Query[set[Grant]]:
        """Return what these roles, and everybody (PUBLIC), were granted."""
        return Query(self._sql(PRIVILEGES), lambda rows: {Grant(*row) for row in rows}, {"names": list(names)})

    def make(self, name: str, meaning: str) -> Query[None]:
        """Make a role that cannot log in, where it is missing."""
        parts = {"name": sql.Literal(name), "meaning": sql.Literal(f"pgqueue: {meaning}")}
        return Query(self._sql(_MAKE, **parts), nothing)

    def own(self, owner: str) -> Query[None]:
        """Give the schema, and all in it, to its owner."""
        return Query(self._sql(_OWN, owner=sql.Literal(owner)), nothing)

    def grant(self, grants: Sequence[Grant]) -> Query[None]:
        """Grant privileges, all of one role on one object."""
        return Query(
            self._sql("grant {privileges} on " + _ON[grants[0].kind] + " to {role}", **_parts(grants)), nothing
        )

    def take(self, grants: Sequence[Grant]) -> Query[None]:
        """Revoke privileges, all of one role on one object."""
        on = _ON[grants[0].kind]
        return Query(self._sql("revoke {privileges} on " + on + " from {role}", **_parts(grants)), nothing)

    def take_all(self, roles: Sequence[str]) -> Query[None]:
        """Revoke all that these roles, and everybody, were granted: for who cannot look at what they have."""
        parts = {"roles": sql.SQL(", ").join(map(sql.Identifier, roles))}
        return Query(self._sql(_TAKE_ALL, **parts), nothing)


def _parts(grants: Sequence[Grant]) -> dict[str, sql.Composable]:
    """Return what GRANT and REVOKE say of privileges of one role on one object."""
    columns: dict[str, list[str]] = {}
    for grant in sorted(grants):
        columns.setdefault(grant.privilege, []).append(grant.column)
    written = [_written(name, columns[name]) for name in _PRIVILEGES if name in columns]
    role = sql.Identifier(grants[0].role) if grants[0].role else sql.SQL("public")
    name = {} if grants[0].kind == "schema" else {"name": sql.Identifier(grants[0].object)}
    return {"privileges": sql.SQL(", ").join(written), "role": role, **name}


def _written(privilege: LiteralString, columns: Sequence[str]) -> sql.Composable:
    names = sql.SQL(", ").join(map(sql.Identifier, filter(None, columns)))
    return sql.SQL(privilege + " ({})").format(names) if any(columns) else sql.SQL(privilege)
