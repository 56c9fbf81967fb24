"""What a database error means: try again, blame the data, or give up the connection."""

import psycopg

from pgqueue.errors import PgqueueError

DATABASE_ERRORS = (psycopg.Error, PgqueueError, OSError)


# After these a connection's state is unknown, or it leads to a server that has become a standby: a new one may not.
BROKEN = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction, OSError)


def blames_data(error: Exception) -> bool:
    """Whether a statement failed for what it carries, so that the rest of its batch may pass without one row.

    Else it is worth trying again as it is.
    """
    if isinstance(error, (psycopg.errors.ProgramLimitExceeded, psycopg.errors.OutOfMemory)):
        return True
    return not isinstance(error, (*BROKEN, PgqueueError))


def brief(error: Exception) -> str:
    """Return an error's message for the log, without the details in which Postgres quotes rows."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return (message or str(error).strip() or "no message").splitlines()[0]
