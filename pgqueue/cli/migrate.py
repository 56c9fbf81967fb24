"""`pgqueue migrate`."""

import sys
from typing import Annotated

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call
from pgqueue.errors import InvalidOption, NotMigrated


def migrate(
    call: Call,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL script; connect to nothing.")] = False,
    since: Annotated[
        str | None, typer.Option(help="With --sql: the version from which the script starts. Default: the first.")
    ] = None,
    roles: Annotated[
        bool, typer.Option("--roles", help="Print the SQL that makes the roles and grants what each needs.")
    ] = False,
    apply_roles: Annotated[
        bool, typer.Option("--apply-roles", help="Make the roles and grant what each needs. Safe to run again.")
    ] = False,
    prefix: Annotated[
        str | None, typer.Argument(help="With --roles and --apply-roles: what their names begin with; the schema's.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 0 if the schema is current, 78 if not, 79 if it is newer.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where a process still runs that a migration would break.")
    ] = False,
) -> None:
    """Bring pgqueue's schema to the newest version. Safe to run again, and by several processes at once.

    Exits with 79, and changes nothing, if a newer release has migrated the schema: workers of this release go on.
    """
    from pgqueue import migrate as migrations  # alembic and SQLAlchemy, which no other command needs

    app = call.app
    if prefix is not None and not (roles or apply_roles):
        raise InvalidOption("a prefix of names needs --roles or --apply-roles")
    if roles:
        sys.stdout.write(migrations.roles_script(app.schema, prefix))
        return
    if apply_roles:
        output.say(str(migrations.apply_roles(app.dsn, app.schema, prefix)))
        return
    if sql:
        sys.stdout.write(migrations.script(app.schema, since))
        return
    if since is not None:
        raise InvalidOption("--since needs --sql")
    if not check:
        before, after = migrations.upgrade(app.dsn, app.schema, force=force)
        note = " (nothing to do)" if before == after else f", was {before}" if before else " (new)"
        output.say(f"schema {app.schema}: {after}{note}")
        for fault in migrations.partition_faults(app.dsn, app.schema):
            output.say(f"{fault}: docs/operations.md, Partitions, says what to do")
        return
    current, head = migrations.check(app.dsn, app.schema), migrations.head()
    output.say(f"schema {app.schema}: {current or 'not installed'}, newest {head}")
    if current != head:
        raise typer.Exit(NotMigrated.exit_code)
