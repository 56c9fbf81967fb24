"""A duty that has failed works again when the database has answered it, and not when it had nothing to ask."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier, Literal

from pgqueue import App, Context, db
from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries.base import does_answer
from pgqueue.worker.claiming.producer import Producer
from tests.conftest import eventually
from tests.harness import working

AGAIN = "works again"


@contextmanager
def away(server_dsn: str, dsn: str) -> Iterator[None]:
    """Let nobody reach a database meanwhile: new connections are refused, and those that are open end."""
    name = str(conninfo_to_dict(dsn)["dbname"])
    allow = SQL("alter database {} allow_connections {}")
    with psycopg.connect(server_dsn, autocommit=True) as conn:
        conn.execute(allow.format(Identifier(name), Literal(False)))
        try:
            conn.execute("select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = %s", (name,))
            yield
        finally:
            conn.execute(allow.format(Identifier(name), Literal(True)))


class Seldom(Duty):
    """Asks the database something in its first step, and has nothing to do in the others."""

    name = "seldom"

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.steps = 0

    async def step(self) -> float:
        self.steps += 1
        if self.steps == 1:
            await self.link.run(does_answer())
        return 0.01


def test_a_step_that_asks_nothing_is_no_success_after_a_failure(
    server_dsn: str, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def scenario() -> None:
        duty = Seldom(Link(db.Database(dsn), "test"))
        with away(server_dsn, dsn):
            running = asyncio.create_task(duty.run())
            await eventually(lambda: duty.steps > 3, "steps without a database")
            assert AGAIN not in caplog.text
            assert duty.succeeded_at == 0.0
        await eventually(lambda: f"seldom {AGAIN}" in caplog.text, "the duty works again, though it has nothing to ask")
        assert duty.succeeded_at > 0.0
        duty.stop()
        await running
        await duty.link.close()

    asyncio.run(scenario())
    assert caplog.text.count("seldom failed") == 1


def test_no_duty_of_a_worker_says_that_it_works_while_the_database_is_away(
    server_dsn: str, dsn: str, app: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat is overdue, so it drops its job and asks for none: most of its duties have nothing to do then."""
    caplog.set_level("INFO")
    started = asyncio.Event()
    steps, step = 0, Producer.step

    async def counted(producer: Producer) -> float:
        nonlocal steps
        steps += 1
        return await step(producer)

    monkeypatch.setattr(Producer, "step", counted)

    @app.task
    async def long(ctx: Context) -> None:
        started.set()
        for done in range(3600_000):
            ctx.progress(done)
            await asyncio.sleep(0.001)

    long.enqueue()

    async def scenario() -> None:
        async with working(app, lease_seconds=2.0, poll_seconds=0.05, shutdown_timeout=0.1):
            await started.wait()
            with away(server_dsn, dsn):
                await eventually(lambda: "drops its jobs" in caplog.text, "the heartbeat is overdue")
                overdue_at = steps
                await eventually(lambda: steps > overdue_at + 5, "the producer has nothing to do")
                assert AGAIN not in caplog.text
            await eventually(lambda: f"claim {AGAIN}" in caplog.text, "the producer claims again")
            await eventually(lambda: f"cancel {AGAIN}" in caplog.text, "a duty that has nothing to do works again")

    asyncio.run(scenario())
