"""Behind PgBouncer in transaction mode: nothing prepared, nothing kept in a session, polling instead of LISTEN.

Debian's PgBouncer 1.18 is the worst case: no prepared statements. Skipped without PgBouncer.
"""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import App, Context, db
from pgqueue.db.link import Link
from pgqueue.scheduler import SchedulerSettings, Ticker, declare
from tests.conftest import drain, scalar, work
from tests.harness import Conn, InThread, wait_for

BINARY = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
CONFIG = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 100
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _somebody_else(directory: Path) -> str | None:
    """Return the user to run PgBouncer as: it refuses root, so the owner of the server's socket."""
    if os.geteuid() != 0:
        return None
    return pwd.getpwuid(directory.stat().st_uid).pw_name if directory.is_dir() else "postgres"


@pytest.fixture
def bouncer_dsn(dsn: str, tmp_path: Path) -> Iterator[str]:
    """The DSN of the test's database through PgBouncer."""
    if BINARY is None:
        pytest.skip("PgBouncer is not installed")
    parts = conninfo_to_dict(dsn)
    host, listen = str(parts["host"]), _free_port()
    config = tmp_path / "pgbouncer.ini"
    config.write_text(
        CONFIG.format(host=host, port=parts.get("port", 5432), user=parts.get("user", "postgres"), listen=listen)
    )
    for place in (config, *config.parents):
        if place.is_relative_to("/tmp") and place != Path("/tmp"):
            place.chmod(place.stat().st_mode | 0o055)
    process = subprocess.Popen(
        [BINARY, "-q", str(config)], user=_somebody_else(Path(host)), stderr=subprocess.DEVNULL, cwd="/"
    )
    through = make_conninfo(host="127.0.0.1", port=listen, dbname=parts["dbname"], user=parts.get("user", "postgres"))

    def answers() -> bool:
        assert process.poll() is None, "PgBouncer did not start"
        try:
            psycopg.connect(through).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        wait_for(answers, "PgBouncer to answer")
        yield through
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bounced(bouncer_dsn: str) -> Iterator[App]:
    app = App(bouncer_dsn, pgbouncer=True)
    yield app
    app.close()


def test_producers_workers_and_retries_work_through_pgbouncer(bounced: App, conn: Conn) -> None:
    @bounced.task(name="t", retry=[0.05])
    async def t(ctx: Context, n: int) -> int:
        if ctx.attempt == 1 and n % 50 == 0:
            raise ConnectionError
        return n

    for n in range(20):  # more often than the executions after which psycopg prepares a statement
        t.enqueue(n=n)
    t.enqueue_many({"n": n} for n in range(20, 200))
    drain(bounced, conn, poll_seconds=0.2, concurrency=20)
    assert scalar(conn, "select count(*) from pgqueue.job_finished where state = 'succeeded'") == 200
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


def test_the_callers_transaction_decides_through_pgbouncer(bounced: App, bouncer_dsn: str, conn: Conn) -> None:
    with psycopg.connect(bouncer_dsn, prepare_threshold=None) as borrowed:
        bounced.using(borrowed).enqueue("t")
        borrowed.rollback()
        job = bounced.using(borrowed).enqueue("t")
        assert scalar(conn, "select count(*) from pgqueue.job") == 0
        borrowed.commit()
    assert scalar(conn, "select id from pgqueue.job") == job.id


def test_a_transaction_that_completes_its_job_works_through_pgbouncer(bounced: App, conn: Conn) -> None:
    conn.execute("create table public.effect (job_id bigint)")

    @bounced.task(name="t")
    async def t(ctx: Context) -> None:
        async with ctx.atransaction() as own:
            await own.execute("insert into public.effect values (%s)", [ctx.job_id])

    job = t.enqueue()
    drain(bounced, conn, poll_seconds=0.2)
    assert scalar(conn, "select job_id from public.effect") == job.id
    assert bounced.get(job.id).state == "succeeded"


def test_a_worker_that_may_listen_on_the_server_itself_is_woken(bouncer_dsn: str, dsn: str, conn: Conn) -> None:
    app = App(bouncer_dsn, pgbouncer=True, listen_dsn=dsn)

    @app.task(name="t")
    async def t() -> None: ...

    def enqueued_while_it_slept() -> bool:
        waiting = scalar(conn, "select count(*) = 1 from pgqueue.worker where waiting")
        if waiting and not scalar(conn, "select exists (select from pgqueue.job)"):
            t.enqueue()
        return bool(scalar(conn, "select exists (select from pgqueue.job_finished)"))

    asyncio.run(work(app, enqueued_while_it_slept, poll_seconds=60.0))
    app.close()


def test_a_scheduler_fires_through_pgbouncer(bounced: App, conn: Conn) -> None:
    @bounced.schedule(3600, name="hourly")
    @bounced.task(name="t")
    def t() -> None: ...

    async def fire() -> int:
        link = Link(bounced.database, "test")
        await declare(bounced, link)
        conn.execute("update pgqueue.schedule set next_tick = next_tick - interval '1 hour'")
        fired = await Ticker(bounced, link, SchedulerSettings()).fire()
        await link.close()
        return fired

    assert asyncio.run(fire()) == 1
    assert scalar(conn, "select outcome from pgqueue.schedule_fire") == "fired"


def test_without_the_option_statements_are_prepared_and_with_it_none_is(dsn: str) -> None:
    for prepare in (True, False):
        with db.Database(dsn, prepare=prepare).connect("test") as conn:
            for _ in range(10):
                conn.execute("select %s::int", [1])
            found = scalar(conn, "select count(*) from pg_prepared_statements where statement like '%::int%'")
        assert (found > 0) is prepare


def test_named_locks_are_taken_renewed_and_waited_for(bouncer_dsn: str, conn: Conn) -> None:
    """None of the statements of a lock leaves anything in a session."""
    app = App(bouncer_dsn, pgbouncer=True)
    with app.lock("k", ttl=1) as lock:
        wait_for(lambda: scalar(conn, "select expires_at > acquired_at + interval '1.2 s' from pgqueue.named_lock"))
        waiter = InThread(lambda: app.lock("k", wait=None).__enter__())
        wait_for(lambda: scalar(conn, "select waited_until > now() from pgqueue.named_lock"))
    heir = waiter.result()
    assert heir.token > lock.token
    heir.__exit__(None, None, None)
    assert scalar(conn, "select count(*) from pgqueue.named_lock") == 0
    app.close()
