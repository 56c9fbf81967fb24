"""The command line: a command parses, calls one function, prints. Data goes to stdout, messages to stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage or bad input, 69 database unreachable or read-only, 78 configuration or
migration needed, 79 schema of a newer release.
"""

import sys
from collections.abc import Sequence

import psycopg

from pgqueue.cli.commands import cli
from pgqueue.cli.output import complain
from pgqueue.db.failures import brief
from pgqueue.errors import DatabaseUnreachable, NotMigrated, PgqueueError


def main(arguments: Sequence[str] | None = None, *, migrate: str | None = None) -> None:
    """Run the command line: with these arguments, or those of the process.

    `migrate` is the command that makes the tables, where that is another than `pgqueue migrate`.
    """
    try:
        cli(arguments)
    except PgqueueError as error:
        complain(error.with_remedy(migrate) if migrate and isinstance(error, NotMigrated) else error)
        sys.exit(error.exit_code)
    except psycopg.Error as error:
        complain(brief(error))
        sys.exit(DatabaseUnreachable.exit_code if isinstance(error, psycopg.OperationalError) else 1)
