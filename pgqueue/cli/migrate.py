"""`pgqueue migrate`."""

import sys
from typing import Annotated

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call
from pgqueue.errors import NotMigrated


def migrate(
    call: Call,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL script; connect to nothing.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 0 if the schema is current, 78 if not.")] = False,
) -> None:
    """Bring pgqueue's schema to the newest version. Safe to run again, and by several processes at once."""
    from pgqueue import migrate as migrations  # alembic and SQLAlchemy, which no other command needs

    app = call.app
    if sql:
        sys.stdout.write(migrations.script(app.schema))
        return
    if not check:
        before, after = migrations.upgrade(app.dsn, app.schema)
        note = " (nothing to do)" if before == after else f", was {before}" if before else " (new)"
        output.say(f"schema {app.schema}: {after}{note}")
        return
    current, head = migrations.current(app.dsn, app.schema), migrations.head()
    output.say(f"schema {app.schema}: {current or 'not installed'}, newest {head}")
    if current != head:
        raise typer.Exit(NotMigrated.exit_code)
