"""What several test files share: waiting, proofs of blocking, rows, processes, a proxy that cuts the connection."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import App
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import ClaimedJob, NewJob
from pgqueue.queries import Queries
from pgqueue.revisions import newest
from pgqueue.worker import Worker, WorkerSettings
from tests import starter
from tests.conftest import DEADLINE, eventually, scalar

Conn = psycopg.Connection[Any]
COMMAND = [sys.executable, "-m", "pgqueue"]
QUERIES = Queries("pgqueue")
ROOT = Path(__file__).parents[1]


def every_statement() -> set[str]:
    """Return the names of all statements of pgqueue, such as `jobs.claim`."""
    return {
        f"{namespace}.{name}"
        for namespace, queries in vars(QUERIES).items()
        for name in dir(queries)
        if not name.startswith("_") and callable(getattr(queries, name))
    }


def wait_for(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Wait, outside an event loop, until `condition()` is true."""
    return asyncio.run(eventually(condition, what))


def wait_blocked(observer: Conn, waiting: Conn, holder: Conn) -> None:
    """Wait for the proof that `waiting` is blocked by `holder`."""
    pids = waiting.info.backend_pid, holder.info.backend_pid
    wait_for(lambda: scalar(observer, "select %s = any(pg_blocking_pids(%s))", pids[1], pids[0]), "the block")


def heard(listener: Conn, conn: Conn) -> list[str]:
    """Return the payloads of the notifications until now: the one of this call comes after all others."""
    conn.execute("select pg_catalog.pg_notify('pgqueue', 'the end')")
    payloads: list[str] = []
    for notification in listener.notifies(timeout=DEADLINE):
        if notification.payload == "the end":
            return payloads
        payloads.append(notification.payload)
    raise AssertionError("the notification that ends the wait did not come")


class InThread:
    """A call that runs beside the test; `result()` waits for it and raises what it raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(DEADLINE)
        assert self.done, "the call did not end in time"
        if self._error is not None:
            raise self._error
        return self._value


WORKER = uuid.uuid4()


def new_job(task: str = "t", queue: str = "default", **other: Any) -> NewJob:
    """Return a job as `Queries.enqueue` takes it."""
    return NewJob(task, other.pop("args", "{}"), queue, other.pop("priority", 0), other.pop("max_attempts", 3), **other)


def claimed(job_id: int, lease: int, **other: Any) -> ClaimedJob:
    """Return a claimed job with the fields that `Queries.resolve` reads."""
    now = datetime.now(UTC)
    attempt, most = other.get("attempt", 1), other.get("max_attempts", 3)
    lane, ties = other.get("lane"), other.get("ties")
    return ClaimedJob(
        job_id, "t", "default", 0, "{}", [], "{}", now, now, attempt, most, lease, 0.0, lane, ties, WORKER
    )


def add_worker(
    conn: Conn,
    *,
    beat_seconds_ago: float = 0,
    lost: bool = False,
    worker: uuid.UUID | None = None,
    knows: str | None = newest(),
) -> uuid.UUID:
    """Insert the row of a worker."""
    worker = worker or uuid.uuid4()
    conn.execute(
        "insert into pgqueue.worker"
        " (id, kind, host, pid, version, queues, tasks, slots, lease_seconds, heartbeat_at, lost_at, knows)"
        " values (%s, 'worker', 'h', 1, '0', '{default}', '{t}', 8, 30, now() - make_interval(secs => %s), %s, %s)",
        (worker, beat_seconds_ago, datetime.now(UTC) if lost else None, knows),
    )
    return worker


def insert_job(conn: Conn, **columns: Any) -> int:
    """Insert a row into job_live with these columns, without a transition."""
    columns = {"task": "t", "queue": "default"} | columns
    names = ", ".join(columns)
    values = ", ".join(f"%({name})s" for name in columns)
    row = conn.execute(f"insert into pgqueue.job_live ({names}) values ({values}) returning id", columns).fetchone()
    assert row is not None
    return int(row[0])


def insert_metered(conn: Conn, flow: Flow, **columns: Any) -> int:
    """Insert a job that waits for its turn, as enqueueing one does."""
    headers = json.dumps({"$flow": flow.header()} | columns.pop("headers", {}))
    return insert_job(conn, **{"state": "blocked", "waits_for": "turn"} | columns, lane=flow.lane, headers=headers)


def add_rule(conn: Conn, name: str, key: str | None = None, *, running: int = 0, **columns: Any) -> str:
    """Insert a rule and one bucket of it, of which so many jobs run; return the bucket's name. Columns named `use_…`
    are those of the bucket."""
    bucket = name if key is None else f"{name}/{key}"
    use = {column.removeprefix("use_"): columns.pop(column) for column in list(columns) if column.startswith("use_")}
    row = {"name": bucket, "version": 1, "rule": name}
    rows = {
        "limit_rule": {"name": name, **columns}, "limit_bucket": {"name": bucket},
        "limit_use": row | {"taken": running} | ({"tat": use.pop("tat")} if "tat" in use else {}),
        "limit_freed": row | use,
    }  # fmt: skip
    for table, row in rows.items():
        names, values = ", ".join(row), ", ".join(f"%({column})s" for column in row)
        conn.execute(f"insert into pgqueue.{table} ({names}) values ({values}) on conflict do nothing", row)
    return bucket


@asynccontextmanager
async def working(app: App, **settings: Any) -> AsyncIterator[None]:
    """A worker beside the test."""
    worker = Worker(app, WorkerSettings(**settings))
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await asyncio.wait_for(running, DEADLINE)


class Process:
    """`pgqueue …` as a real process with a log; killed at the end by its own pid.

    It is forked, for speed, but where its directory has a `sitecustomize.py`: only an interpreter that starts reads it.
    """

    def __init__(self, directory: Path, dsn: str, *arguments: str, module: str = "pgqueue") -> None:
        self._process: starter.Started | subprocess.Popen[bytes]
        self._log = directory / f"{uuid.uuid4().hex}.log"
        path = os.pathsep.join([str(directory), str(ROOT)])  # this checkout, whichever one is installed
        environ = os.environ | {"PGQUEUE_DSN": dsn, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        with self._log.open("wb") as output:
            if module == "pgqueue" and not (directory / "sitecustomize.py").exists():
                streams = {"stdout": output.fileno(), "stderr": output.fileno()}
                self._process = starter.start(*arguments, cwd=directory, env=environ, **streams)
                return
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                cwd=directory,
                process_group=0,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Send a signal as a terminal does: to the process and its children, as far as they are in its group."""
        os.killpg(self._process.pid, number)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE)

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        return self._process.wait(DEADLINE)

    def alive_until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for a condition; fail at once, with the log, if the process ends before."""

        def check() -> Any:
            assert self.running, f"the process ended while waiting for {what}:\n{self.log()}"
            return condition()

        wait_for(check, what)


class Proxy:
    """Stands between a client and Postgres, and can lose the answer to one request: F13 of the fault matrix."""

    def __init__(self, dsn: str, marker: bytes) -> None:
        self._parts = conninfo_to_dict(dsn)
        self._marker = marker
        self.cut = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._finished = asyncio.Event()

    @property
    def dsn(self) -> str:
        parts = dict(self._parts) | {"host": "127.0.0.1", "port": self._port, "sslmode": "disable"}
        return make_conninfo(**parts, gssencmode="disable")

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._finished.wait()
        server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = str(self._parts.get("host", "localhost")), int(self._parts.get("port") or 5432)
        if host.startswith("/"):
            up_reader, up_writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            up_reader, up_writer = await asyncio.open_connection(host, port)
        losing = False

        async def requests() -> None:
            nonlocal losing
            while data := await reader.read(65536):
                losing = losing or (not self.cut.is_set() and self._marker in data)
                up_writer.write(data)
                await up_writer.drain()

        async def answers() -> None:
            while data := await up_reader.read(65536):
                if losing and b"\x5a\x00\x00\x00\x05I" in data:  # ReadyForQuery with status idle: it is committed
                    self.cut.set()
                    return
                if not losing:
                    writer.write(data)
                    await writer.drain()

        ends = [asyncio.create_task(requests()), asyncio.create_task(answers())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            for stream in (writer, up_writer):
                stream.transport.abort()

    @classmethod
    @contextmanager
    def before(cls, dsn: str, marker: bytes) -> Iterator["Proxy"]:
        """Run a proxy; it forwards the first request that contains `marker` and cuts the line before the answer."""
        proxy = cls(dsn, marker)
        proxy._thread.start()
        assert proxy._ready.wait(DEADLINE)
        try:
            yield proxy
        finally:
            proxy._loop.call_soon_threadsafe(proxy._finished.set)
            proxy._thread.join(DEADLINE)
            left = asyncio.all_tasks(proxy._loop)
            for task in left:
                task.cancel()
            if left:
                proxy._loop.run_until_complete(asyncio.wait(left))
            proxy._loop.run_until_complete(asyncio.sleep(0.05))  # aborted transports close in the next iteration
            proxy._loop.close()
