"""The connections of the server, the role of this one, and whether a pooler is in between."""

from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, first_value

# Count connections of clients against what the server, and the role's own limit, allow. Postgres hides the type of a
# session from roles that may not see it, but not the session.
CONNECTIONS: LiteralString = """
select count(*), current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true)::int, 0),
       count(*) filter (where a.usename = current_user),
       (select r.rolconnlimit from pg_catalog.pg_roles r where r.rolname = current_user)
from pg_catalog.pg_stat_activity a where coalesce(a.backend_type, 'client backend') = 'client backend'
and a.usesysid is not null"""

# Count our own connections by what they are for, the most first.
OWN_CONNECTIONS: LiteralString = """
select a.application_name::text, count(*) from pg_catalog.pg_stat_activity a
where a.datname = current_database() and a.application_name like 'pgqueue%%'
group by a.application_name order by count(*) desc, a.application_name limit %(limit)s"""

# Tell which backend runs this statement. Two answers on one connection mean a pooler in transaction mode.
BACKEND: LiteralString = "select pg_backend_pid()"

# The same in a transaction that keeps the backend, for a second at most: then the server ends it.
HOLD: LiteralString = "select pg_backend_pid(), set_config('idle_in_transaction_session_timeout', '1s', true)"

# Tell what the role may do that pgqueue needs not, and whether it may see what other roles do.
ROLE: LiteralString = """
select current_user::text, r.rolsuper,
       exists (select from pg_catalog.pg_class c
               where c.relnamespace = to_regnamespace(quote_ident({channel}::text))::oid and c.relkind in ('r', 'p')
               and pg_has_role(c.relowner, 'USAGE')),
       pg_has_role('pg_read_all_stats', 'USAGE')
from pg_catalog.pg_roles r where r.rolname = current_user"""

# List for each table and view the rights that the role has on all of it, out of the four that matter. Partitions are
# reached through their parents.
RIGHTS: LiteralString = """
select c.relname::text, array_remove(array[
    case when has_table_privilege(c.oid, 'select') then 'select' end,
    case when has_table_privilege(c.oid, 'insert') then 'insert' end,
    case when has_table_privilege(c.oid, 'update') then 'update' end,
    case when has_table_privilege(c.oid, 'delete') then 'delete' end], null)
from pg_catalog.pg_class c
where c.relnamespace = to_regnamespace(quote_ident({channel}::text))::oid and c.relkind in ('r', 'p', 'v')
and not c.relispartition order by c.relname"""


class Connections(NamedTuple):
    """Connections of clients, how many the server allows to roles that are not superusers; those of this role, and its
    own limit, -1 for none."""

    used: int
    most: int
    of_role: int
    most_of_role: int


class Role(NamedTuple):
    """The role of this connection: whether it is a superuser, owns tables of the schema, and sees what others do."""

    name: str
    is_superuser: bool
    owns_tables: bool
    sees_all: bool


class ConnectionQueries(Statements):
    """Connections and roles."""

    def connections(self) -> Query[Connections]:
        """Count connections of clients against what is allowed."""
        return Query(self._sql(CONNECTIONS), lambda rows: Connections(*rows[0]))

    def own_connections(self, limit: int) -> Query[list[tuple[str, int]]]:
        """Count our own connections by name."""
        return Query(self._sql(OWN_CONNECTIONS), lambda rows: [(row[0], row[1]) for row in rows], {"limit": limit})

    def backend(self) -> Query[int]:
        """Tell which backend runs this statement."""
        return Query(self._sql(BACKEND), first_value)

    def hold_backend(self) -> Query[int]:
        """Tell which backend runs this transaction, and let it go after a second without a statement."""
        return Query(self._sql(HOLD), first_value)

    def role(self) -> Query[Role]:
        """Tell what the role is."""
        return Query(self._sql(ROLE), lambda rows: Role(*rows[0]))

    def rights(self) -> Query[dict[str, list[str]]]:
        """List the rights that the role has on each table."""
        return Query(self._sql(RIGHTS), lambda rows: {row[0]: row[1] for row in rows})
