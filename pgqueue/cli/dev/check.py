"""Imports the app as the worker will: `python -m pgqueue.cli.dev.check MODULE:ATTR DSN`.

Exit codes: 0 the app has a database; 3 it has none; 4 it has one on another machine, which DSN does not name; 78 it
cannot be imported, and the traceback is on stderr.
"""

import importlib
import sys
import traceback
from pathlib import Path
from types import TracebackType

from pgqueue.cli import load
from pgqueue.cli.dev.place import place_of
from pgqueue.cli.dev.processes import ANOTHER_MACHINE, NO_DATABASE
from pgqueue.cli.output import complain, say
from pgqueue.config import find_dsn, named_dsn
from pgqueue.errors import ConfigError

_IMPORTLIB = Path(importlib.__file__)


def main() -> int:
    """Import the app that the first argument names, with the database of the second, if it is not empty."""
    reference, dsn = sys.argv[1:]
    try:
        app = load.load_app(reference, dsn or None)
    except ConfigError as error:
        if (cause := error.__cause__) is not None:
            traceback.print_exception(type(cause), cause, _theirs(cause.__traceback__))
        complain(error)
        return error.exit_code
    except SystemExit as error:  # its status is not one of ours
        complain(f"-A {reference}: importing it ended the process with status {error.code}")
        return ConfigError.exit_code
    try:
        known = app.backend.known_dsn
    except ConfigError as error:
        if named_dsn(None):
            complain(error)
            return error.exit_code
        return NO_DATABASE
    return 0 if known is None else _tell(known, is_asked_for=bool(dsn))


def _tell(known: str, *, is_asked_for: bool) -> int:
    """Say which database it is. Return whether it may be used: one of another machine only if it was asked for."""
    place = place_of(known)
    if place.is_here or is_asked_for:
        say(f"the database is {place}")
        return 0
    of_environment = bool(named_dsn(None)) and find_dsn(None) == known
    source = "the environment (PGQUEUE_DSN, DATABASE_URL)" if of_environment else "the app"
    complain(
        f"{source} names the database {place}: dev would migrate it and run its jobs with unfinished code. If you mean "
        "it, name it by --dsn; else unset it there, and dev starts a Postgres of its own"
    )
    return ANOTHER_MACHINE


def _theirs(found: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the frame on that is the app's: what imports it tells the reader nothing."""
    while found is not None:
        file = found.tb_frame.f_code.co_filename
        if file != load.__file__ and not file.startswith("<frozen importlib") and Path(file) != _IMPORTLIB:
            return found
        found = found.tb_next
    return None


if __name__ == "__main__":
    sys.exit(main())
