"""Migrations: alembic writes the SQL of the versions that ship with the package, and psycopg runs it.

Alembic connects to nothing here, and its module globals (`alembic.op`, `alembic.context`) stay as they are. So a
migration of the host application's own alembic may call `upgrade`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg

from pgqueue import db, roles
from pgqueue.config import check_schema
from pgqueue.errors import InvalidOption
from pgqueue.migrate.migrator import Migrator
from pgqueue.migrate.steps import Step, all_steps, between, head, versions
from pgqueue.queries import Queries
from pgqueue.queries.partitions import PartitionState, faulty
from pgqueue.revisions import directory

__all__ = [
    "Step", "all_steps", "apply_roles", "check", "current", "directory", "head", "include_name", "include_object",
    "partition_faults", "roles_script", "script", "upgrade", "versions",
]  # fmt: skip

HEADER = "-- pgqueue's schema {schema} at version {version}. Run this in one transaction, for example by psql -1.\n\n"


def upgrade(database: str | Any, schema: str = "pgqueue", *, force: bool = False) -> tuple[str | None, str]:
    """Bring the schema to the newest version; return the version before and after.

    `database` is a DSN: then each migration is a transaction, and a new schema is one. Or it is a connection that
    `using(conn)` takes too, such as `op.get_bind()` in a migration of your own: then everything belongs to its
    transaction, also indexes, which are otherwise built while their tables are written. Safe to call from several
    processes at once: one works, the others wait and find nothing to do; after an error, call it again.

    Raises MigrationBlocked when somebody's transaction holds the tables for seconds, SchemaNewer when a newer release
    has migrated the schema, and OlderReleaseRuns before a contract migration while a process lives that would break;
    `force` does it all the same.
    """
    with _connection(database) as conn:
        migrator = Migrator(conn, check_schema(schema), force)
        own, before = isinstance(database, str), migrator.version()
        if before != head():
            with migrator.explained():
                before = migrator.step_by_step(database) if own and before is not None else migrator.at_once()
        migrator.finish(own=own, new=before is None)
    return before, head()


def script(schema: str = "pgqueue", since: str | None = None, until: str | None = None) -> str:
    """Return the SQL that brings the schema from one version (None: from nothing) to another (None: to the newest).

    Needs no database. The SQL neither begins nor commits, so that any tool can run it in a transaction of its own.
    """
    for version in {since, until} - {None, *versions()}:
        raise InvalidOption(f"version {version!r} cannot be used: give one of {', '.join(versions())}")
    header = HEADER.format(schema=check_schema(schema), version=until or head())
    return header + "".join(step.sql(schema) for step in between(since, until or head()))


def apply_roles(database: str | Any, schema: str = "pgqueue", prefix: str | None = None) -> roles.Applied:
    """Make the roles of docs/roles.md, give them the schema and what each needs; return what was changed.

    Their names begin with `prefix`, else with the schema's. `database` is as for `upgrade`. Safe to run again, and
    `upgrade` does so for roles that exist. Raises NotMigrated where the schema is not the newest, NotAllowed where the
    role may not make roles or does not own the schema, and MigrationBlocked as `upgrade` does.
    """
    with _connection(database) as conn:
        return Migrator(conn, check_schema(schema)).apply_roles(schema if prefix is None else prefix)


def roles_script(schema: str = "pgqueue", prefix: str | None = None) -> str:
    """Return the SQL of `apply_roles`, for whoever may make roles. Needs no database."""
    return roles.script(Queries(check_schema(schema)), schema, schema if prefix is None else prefix)


def current(database: str | Any, schema: str = "pgqueue") -> str | None:
    """Return the version the schema has; None if it was never migrated. `database` is as for `upgrade`."""
    with _connection(database) as conn:
        return Migrator(conn, check_schema(schema)).any_version()


def check(database: str | Any, schema: str = "pgqueue") -> str | None:
    """Return the version the schema has, if this package knows it; None if it was never migrated. Else SchemaNewer."""
    with _connection(database) as conn:
        return Migrator(conn, check_schema(schema)).version()


def partition_faults(database: str | Any, schema: str = "pgqueue") -> list[PartitionState]:
    """Return what is wrong with the partitions of the histories: days that lack one, rows in the default partition."""
    with _connection(database) as conn:
        return faulty(db.run(conn, Queries(check_schema(schema)).partitions.states()))


def include_name(name: str | None, type_: str, parent_names: Any = None, *, schema: str = "pgqueue") -> bool:
    """Whether your own alembic looks at a name: not if it is pgqueue's schema. For `context.configure(include_name=…)`.

    Without it, `alembic revision --autogenerate` with `include_schemas=True` would drop pgqueue's tables.
    """
    return type_ != "schema" or name != schema


def include_object(
    thing: Any, name: str | None, type_: str, reflected: bool, compare_to: Any, *, schema: str = "pgqueue"
) -> bool:
    """Whether your own alembic compares an object: not if it is in pgqueue's schema. As `include_name`, later."""
    return getattr(getattr(thing, "table", thing), "schema", None) != schema


@contextmanager
def _connection(database: str | Any) -> Iterator[db.Connection]:
    """Give an own connection for a DSN, else the one inside a connection of the caller's."""
    with db.Database(database).connect("pgqueue migrate") if isinstance(database, str) else nullcontext() as own:
        if own:
            # Else a snapshot from before the wait for another migrator would hide what it did.
            own.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        yield own or db.borrow_psycopg(database)
