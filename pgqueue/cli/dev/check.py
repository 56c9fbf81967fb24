"""Imports the app as the worker will: `python -m pgqueue.cli.dev.check MODULE:ATTR DSN`.

Exit codes: 0 the app has a database; 3 it has none; 78 it cannot be imported, and the traceback is on stderr.
"""

import importlib
import sys
import traceback
from pathlib import Path
from types import TracebackType

from pgqueue.cli import load
from pgqueue.cli.dev.processes import NO_DATABASE
from pgqueue.cli.output import complain
from pgqueue.config import named_dsn
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
    try:
        app.backend.known_dsn  # noqa: B018 - it raises where neither the app nor the environment names a database
    except ConfigError as error:
        if named_dsn(None):
            complain(error)
            return error.exit_code
        return NO_DATABASE
    return 0


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
