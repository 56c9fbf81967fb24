"""A role or server with too few connections: jobs that need one wait for it, and spend no attempt."""

import asyncio
import logging
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App, Context
from pgqueue.errors import DatabaseUnreachable
from pgqueue.tasks.context import Signals
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.running.completion import Completion
from tests.conftest import eventually, scalar
from tests.harness import Conn, claimed

DUTIES = 5  # connections of a worker besides those of its jobs


@pytest.fixture
def limited(dsn: str, conn: Conn) -> Iterator[str]:
    """A DSN of a role that may have one connection more than a worker's duties."""
    role = scalar(conn, "select 'few' || substr(md5(random()::text), 1, 8)")
    conn.execute(f"create role {role} login connection limit {DUTIES + 1}".encode())
    conn.execute(f"grant all on schema pgqueue to {role}".encode())
    conn.execute(f"grant all on all tables in schema pgqueue to {role}".encode())
    conn.execute(f"grant all on all sequences in schema pgqueue to {role}".encode())
    yield make_conninfo(dsn, user=role)
    conn.execute(f"drop owned by {role}; drop role {role}".encode())


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_job_waits_for_a_connection_and_its_first_attempt_succeeds(
    limited: str, conn: Conn, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(limited)
    if kind == "def":

        @app.task(name="pay", max_attempts=1)
        def pay(ctx: Context) -> None:
            with ctx.transaction() as own:
                own.execute("select 1")
    else:

        @app.task(name="pay", max_attempts=1)
        async def apay(ctx: Context) -> None:
            async with ctx.atransaction() as own:
                await own.execute("select 1")

    held = psycopg.connect(limited)
    conn.execute("insert into pgqueue.job_live (task, queue, args, max_attempts) values ('pay', 'default', '{}', 1)")
    caplog.set_level(logging.WARNING, "pgqueue.worker")

    async def run() -> None:
        worker = Worker(app, WorkerSettings(poll_seconds=0.1))
        running = asyncio.create_task(worker.run())
        await eventually(lambda: "waits for a connection" in caplog.text, "the job to wait")
        held.close()
        await eventually(lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live"), "the job to end")
        worker.stop()
        await running
        await app.aclose()

    asyncio.run(run())
    assert scalar(conn, "select state || attempt from pgqueue.job") == "succeeded1"


@pytest.mark.parametrize("signals", [Signals(deadline=0.0), Signals(cancelled=True)])
def test_a_job_that_is_cancelled_or_late_waits_no_longer(app: App, signals: Signals) -> None:
    unreachable = App("postgresql://127.0.0.1:1/nothing")
    with pytest.raises(DatabaseUnreachable), Completion(unreachable, claimed(1, 1), signals).transaction(None):
        pass
