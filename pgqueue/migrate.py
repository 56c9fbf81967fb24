"""Migrations: alembic writes the SQL of the versions that ship with the package, and psycopg runs it.

Alembic connects to nothing here, and its module globals (`alembic.op`, `alembic.context`) stay as they are. So a
migration of the host application's own alembic may call `upgrade`.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import psycopg
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from pgqueue import db, roles
from pgqueue.config import check_schema
from pgqueue.db.failures import brief
from pgqueue.errors import ConfigError, InvalidOption, MigrationBlocked, NotAllowed, NotMigrated, SchemaNewer
from pgqueue.queries import Queries
from pgqueue.queries.partitions import PartitionState, empty_defaults, faulty
from pgqueue.queries.schema import MigrationSettings
from pgqueue.revisions import directory

LOCK_TIMEOUT = "5s"
HEADER = "-- pgqueue's schema {schema} at version {version}. Run this in one transaction, for example by psql -1.\n\n"
# Postgres asks for the right to create schemas before it looks whether the schema is there.
CREATE_SCHEMA = """do $$ begin
    if to_regnamespace('{schema}') is null then create schema {schema}; end if;
end $$;

"""
# Whoever may create tables in a schema need not own it; its comment is not worth a failure.
SCHEMA_COMMENT = re.compile(r"^(comment on schema .*);$", re.MULTILINE)
OPTIONAL = r"do $$ begin \1; exception when insufficient_privilege then null; end $$;"


def upgrade(database: str | Any, schema: str = "pgqueue") -> tuple[str | None, str]:
    """Bring the schema to the newest version; return the version before and after.

    `database` is a DSN; or a connection that `using(conn)` takes too, such as `op.get_bind()` in a migration of your
    own: then everything belongs to its transaction. Safe to call from several processes at once: one works, the others
    wait and find nothing to do. All or nothing. Raises MigrationBlocked when somebody's transaction holds the tables
    for seconds, and SchemaNewer when a newer release has migrated the schema.
    """
    queries = Queries(check_schema(schema))
    with _connection(database) as conn:
        before = check(conn, schema)
        if before != head():
            with _explained(schema), _unit(conn, queries):
                before = _migrate(conn, queries, schema)
                roles.reapply(conn, queries)
        with _unit(conn, queries):
            db.run(conn, queries.partitions.make())
            roles.reapply(conn, queries)
            if isinstance(database, str) or before is None:  # else a lock on a large table would stay for long
                db.run(conn, queries.schema.validate())
        if isinstance(database, str):
            for query in empty_defaults(queries.partitions):
                db.run(conn, query)
            db.run(conn, queries.partitions.make())
    return before, head()


def script(schema: str = "pgqueue", since: str | None = None, until: str | None = None) -> str:
    """Return the SQL that brings the schema from one version (None: from nothing) to another (None: to the newest).

    Needs no database. The SQL neither begins nor commits, so that any tool can run it in a transaction of its own.
    """
    for version in {since, until} - {None, *_versions()}:
        raise InvalidOption(f"version {version!r} cannot be used: give one of {', '.join(_versions())}")
    header = HEADER.format(schema=check_schema(schema), version=until or head())
    return header + _sql(schema, since, until or head())


def apply_roles(database: str | Any, schema: str = "pgqueue", prefix: str | None = None) -> roles.Applied:
    """Make the roles of docs/roles.md, give them the schema and what each needs; return what was changed.

    Their names begin with `prefix`, else with the schema's. `database` is as for `upgrade`. Safe to run again, and
    `upgrade` does so for roles that exist. Raises NotMigrated where the schema is not the newest, NotAllowed where the
    role may not make roles or does not own the schema, and MigrationBlocked as `upgrade` does.
    """
    queries = Queries(check_schema(schema))
    with _connection(database) as conn:
        if check(conn, schema) != head():
            raise NotMigrated(f"schema {schema} is not at version {head()}: run `pgqueue migrate` first")
        with _explained(schema), _unit(conn, queries):
            db.run(conn, queries.schema.lock_migrations())
            db.run(conn, queries.schema.set_settings(MigrationSettings(lock_timeout=LOCK_TIMEOUT)))
            try:
                return roles.apply(conn, queries, schema if prefix is None else prefix)
            except NotAllowed as error:
                raise NotAllowed(f"{error}. Whoever may can run what `pgqueue migrate --roles` prints") from None


def roles_script(schema: str = "pgqueue", prefix: str | None = None) -> str:
    """Return the SQL of `apply_roles`, for whoever may make roles. Needs no database."""
    return roles.script(Queries(check_schema(schema)), schema, schema if prefix is None else prefix)


def current(database: str | Any, schema: str = "pgqueue") -> str | None:
    """Return the version the schema has; None if it was never migrated. `database` is as for `upgrade`."""
    queries = Queries(check_schema(schema)).schema
    with _connection(database) as conn:
        return db.run(conn, queries.version()) if db.run(conn, queries.has_version()) else None


def check(database: str | Any, schema: str = "pgqueue") -> str | None:
    """Return the version the schema has, if this package knows it; None if it was never migrated. Else SchemaNewer."""
    version = current(database, schema)
    if version is not None and version not in _versions():
        raise SchemaNewer(
            f"schema {schema} has version {version}, made by a newer release of pgqueue: this one knows versions up to "
            f"{head()}, and changes nothing"
        )
    return version


def head() -> str:
    """Return the newest version this package knows."""
    return _versions()[-1]


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


@contextmanager
def _unit(conn: db.Connection, queries: Queries) -> Iterator[None]:
    """Make statements one unit: a transaction, or a savepoint in the caller's, whose settings stay as they are."""
    if not db.autocommits(conn):
        db.run(conn, queries.schema.settings())  # begins the caller's transaction: psycopg would commit one of its own
    with conn.transaction():
        before = db.run(conn, queries.schema.settings())
        db.run(conn, queries.schema.set_settings(MigrationSettings()))
        yield
        db.run(conn, queries.schema.set_settings(before))


def _migrate(conn: db.Connection, queries: Queries, schema: str) -> str | None:
    """Run what is missing when no other process does; return the version from which it started."""
    db.run(conn, queries.schema.lock_migrations())
    before = check(conn, schema)
    if before != head():
        # Whoever waits for a table's lock behind a long transaction makes everybody else wait behind it.
        db.run(conn, queries.schema.set_settings(MigrationSettings(lock_timeout=LOCK_TIMEOUT)))
        psycopg.Cursor(conn).execute(_sql(schema, before, head()).encode(), prepare=False)
    return before


@contextmanager
def _explained(schema: str) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise NotAllowed(
            f"{brief(error)}: migrate as the owner of the database, or as the owner of a schema {schema} that exists"
        ) from None
    except psycopg.errors.LockNotAvailable:
        raise MigrationBlocked(
            f"a transaction has held a lock on pgqueue's tables for {LOCK_TIMEOUT}, and nothing was changed: "
            "run `pgqueue migrate` again when it has ended (pg_stat_activity shows it)"
        ) from None


@cache
def _versions() -> tuple[str, ...]:
    """Return the versions this package knows, oldest first."""
    revisions = tuple(revision.revision for revision in _scripts().walk_revisions())
    if not revisions:
        raise ConfigError(f"no migrations in {directory()}: install pgqueue again")
    return revisions[::-1]


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(directory()).replace("%", "%%"))
    return ScriptDirectory.from_config(config)


def _sql(schema: str, since: str | None, until: str) -> str:
    """Return the SQL that `upgrade` runs and `script` returns."""
    steps = _scripts()._upgrade_revs(until, since)  # type: ignore[arg-type]  # None is the beginning
    written = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # another one would double each %
        opts={
            "as_sql": True,
            "output_buffer": written,
            "starting_rev": since,
            "fn": lambda *_: steps,
            "version_table": "migration",
            "version_table_schema": schema,
            "literal_binds": True,
            "pgqueue_schema": f'"{schema}"',  # check_schema allows no quotes inside
        },
    )
    for step in steps:
        # In each file `op` is the module alembic.op, whose functions lead to the migration that runs in this process.
        vars(step.revision.module)["op"] = Operations(context)
    context.run_migrations()
    create = CREATE_SCHEMA.format(schema=f'"{schema}"') if since is None else ""
    return create + SCHEMA_COMMENT.sub(OPTIONAL, written.getvalue())
