"""Run pgqueue's migrations: in one transaction, one migrator at a time, inside pgqueue's own schema.

`pgqueue.migrate` hands over an open SQLAlchemy connection and the schema's name in `config.attributes`;
without a connection (`pgqueue migrate --sql`) the script is printed. The host application's alembic is
never touched: version table and tables live in the schema of pgqueue.
"""

from alembic import context
from sqlalchemy import Connection, text

SCHEMA: str = context.config.attributes.get("schema", "pgqueue")
QUOTED = f'"{SCHEMA}"'  # checked by pgqueue.config: no quotes inside


def configure(connection: Connection | None) -> None:
    context.configure(
        connection=connection,
        dialect_name=None if connection else "postgresql",
        version_table="migration",
        version_table_schema=SCHEMA,
        literal_binds=connection is None,
        dialect_opts={"paramstyle": "named"} if connection is None else None,
        pgqueue_schema=QUOTED,
    )


def run_online(connection: Connection) -> None:
    # A transaction lock and not a session lock: a killed migrator leaves no lock behind, nor does PgBouncer in
    # transaction mode. The version is read only once this transaction holds the lock.
    connection.execute(text("select pg_advisory_xact_lock(hashtext(:key))"), {"key": f"pgqueue migrate {SCHEMA}"})
    # A migration that waits for a table's lock behind a long transaction makes all others wait behind itself.
    timeout = context.config.attributes["lock_timeout"]
    connection.execute(text("select set_config('lock_timeout', :timeout, true)"), {"timeout": timeout})
    connection.execute(text(f"create schema if not exists {QUOTED}"))
    configure(connection)
    context.run_migrations()


def run_offline() -> None:
    configure(None)
    with context.begin_transaction():
        context.execute(f"create schema if not exists {QUOTED}")
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online(context.config.attributes["connection"])
