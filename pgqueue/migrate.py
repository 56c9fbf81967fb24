"""Migrations: three functions that run alembic on the versions that ship with the package."""

import io
import threading
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from pgqueue import db
from pgqueue.config import check_schema
from pgqueue.errors import ConfigError, MigrationBlocked, NotAllowed
from pgqueue.queries import Queries

# Alembic keeps the running migration in a module global, so a process runs one at a time.
_ALEMBIC = threading.Lock()
LOCK_TIMEOUT = "5s"


def directory() -> Path:
    """Return the directory of the migrations: inside the package if installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    for place in (package / "migrations", package.parent / "migrations"):
        if place.is_dir():
            return place
    raise ConfigError(f"pgqueue's migrations are missing beside {package}: install pgqueue again")


def upgrade(dsn: str, schema: str = "pgqueue") -> tuple[str | None, str]:
    """Bring the schema to the newest version; return the version before and after.

    Several processes may call it at once: one migrates, the others wait and find nothing to do. All or nothing. Raises
    MigrationBlocked if a transaction holds a lock on the tables for longer than LOCK_TIMEOUT.
    """
    before = current(dsn, schema)
    engine = create_engine("postgresql+psycopg://", creator=lambda: _connect(dsn), poolclass=NullPool)
    try:
        with _ALEMBIC, engine.begin() as connection:
            config = _config(schema)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise NotAllowed(f"{error.orig}: migrate as the owner of the database or schema") from None
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise MigrationBlocked(
                f"a transaction has held a lock on pgqueue's tables for {LOCK_TIMEOUT}, and nothing was changed: "
                "run `pgqueue migrate` again when it has ended (pg_stat_activity shows it)"
            ) from None
        raise
    with db.Database(dsn).connect("pgqueue migrate") as conn:
        db.run(conn, Queries(schema).schema.make_partitions())
        db.run(conn, Queries(schema).schema.validate())
    return before, head()


def script(schema: str = "pgqueue") -> str:
    """Return the SQL that creates the schema. Needs no database."""
    output = io.StringIO()
    config = _config(schema)
    config.output_buffer = output
    with _ALEMBIC:
        command.upgrade(config, "head", sql=True)
    return output.getvalue()


def current(dsn: str, schema: str = "pgqueue") -> str | None:
    """Return the version of the schema; None if it was never migrated."""
    queries = Queries(check_schema(schema))
    with db.Database(dsn).connect("pgqueue migrate") as conn:
        return db.run(conn, queries.schema.version()) if db.run(conn, queries.schema.has_version()) else None


def head() -> str:
    """Return the newest version in this package."""
    version = ScriptDirectory.from_config(_config("pgqueue")).get_current_head()
    if version is None:
        raise ConfigError(f"no migrations in {directory()}: install pgqueue again")
    return version


def _config(schema: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(directory()).replace("%", "%%"))
    config.attributes["lock_timeout"] = LOCK_TIMEOUT
    config.attributes["schema"] = check_schema(schema)
    return config


def _connect(dsn: str) -> psycopg.Connection[object]:
    conn: psycopg.Connection[object] = db.Database(dsn).connect("pgqueue migrate")
    conn.autocommit = False
    return conn
