"""Database errors by what to do about them: try again, leave out a row, drop the connection, or tell the user."""

import psycopg

from pgqueue.errors import NotAllowed, NotMigrated, PgqueueError, ReadOnlyDatabase

DATABASE_ERRORS = (psycopg.Error, PgqueueError, OSError)

# Prepared statements are on another connection than psycopg takes them to be: a pooler is in between.
_POOLED = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement)

# After one of these a connection's state is unknown; or its server has become a standby, which a new one may not reach;
# or a migration has changed the columns that its prepared statements return.
BROKEN = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    ReadOnlyDatabase,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.IdleInTransactionSessionTimeout,
    *_POOLED,
    OSError,
)
# The server gave up at a timeout that we had set. The connection is as good as before.
TIMED_OUT = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)

_NO_SUCH_NAME = ("42P01", "42703", "3F000", "42883")  # SQLSTATEs: no such table, column, schema, function
_NOT_ALLOWED = "42501"
INTERNAL_TRIES = 3
EXPLAINED = tuple(psycopg.errors.lookup(state) for state in (*_NO_SUCH_NAME, _NOT_ALLOWED, ReadOnlyDatabase.sqlstate))


def explained(error: Exception, database: str = "this database", role: str = "this role") -> PgqueueError | None:
    """Return NotMigrated, NotAllowed or ReadOnlyDatabase for an error that means it, else None. psycopg or asyncpg may
    have raised it."""
    state = getattr(error, "sqlstate", None)
    if state == ReadOnlyDatabase.sqlstate:
        return read_only(error, database)
    if _in_function(error):
        return None
    if state in _NO_SUCH_NAME:
        return NotMigrated(
            f"{database} does not have the tables this pgqueue needs ({brief(error)}): run `pgqueue migrate`"
        )
    if state == _NOT_ALLOWED:
        return NotAllowed(f"{role}: {brief(error)} (docs/roles.md says what each role needs)")
    return None


def read_only(error: Exception, database: str = "this database") -> ReadOnlyDatabase:
    """Return the error of a connection on which nothing can be written, and how to get one to the primary."""
    return ReadOnlyDatabase(
        f"{database} takes no writes here ({brief(error)}): it is a standby, or it, the role or the transaction is "
        "read-only. To reach the primary, name all servers in the DSN and ask for the one that takes writes: "
        "postgresql://one,two/shop?target_session_attrs=read-write"
    )


def _in_function(error: Exception) -> bool:
    """Whether a function raised an error: a trigger of the user's, for workers call none that looks names up.

    It finds its tables by a search_path that a worker does not have; our schema is as it should be.
    """
    diag = getattr(error, "diag", error)  # asyncpg's errors have the fields themselves
    context = getattr(diag, "context", None) or ""
    return bool(context) and "inline_code_block" not in context


def blames_data(error: Exception, tries: int = 0) -> bool:
    """Whether a statement failed because of a row that it carries, so that the rest of its batch may succeed alone.

    After any other error the same statement is worth another try. An internal error of the server may be either: it is
    tried again, and blamed on the data when `tries` tries have failed alike.
    """
    if (getattr(error, "sqlstate", None) or "").startswith("XX"):
        return tries >= INTERNAL_TRIES
    if isinstance(error, (psycopg.errors.ProgramLimitExceeded, psycopg.errors.OutOfMemory)):
        return True
    return not isinstance(error, (*BROKEN, PgqueueError))


def brief(error: Exception) -> str:
    """Return the first line of an error's message: for the log, without the details in which Postgres quotes rows."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    line = (message or str(error).strip() or "no message").splitlines()[0]
    if isinstance(error, _POOLED):
        line += " (if a pooler such as PgBouncer is in between, make the app with App(pgbouncer=True))"
    return line
