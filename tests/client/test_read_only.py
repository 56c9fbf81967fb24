"""A database that takes no writes: each verb says so in one error, which says how to reach the primary."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App, DatabaseNotReady, JobFilter, ReadOnlyDatabase, migrate
from pgqueue.cli import main
from pgqueue.db.failures import explained
from tests.callers import for_asyncpg
from tests.client.waiting.looks import hub_of
from tests.conftest import drain, scalar
from tests.harness import Conn, InThread, wait_for

VERBS: dict[str, Callable[[App, int], Any]] = {
    "enqueue": lambda app, _: app.enqueue("t", {"n": 1}),
    "enqueue with a key": lambda app, _: app.using(idempotency_key="k").enqueue("t", {"n": 1}),
    "aenqueue": lambda app, _: asyncio.run(app.aenqueue("t", {"n": 1})),
    "enqueue many": lambda app, _: app.task(name="many")(_t).enqueue_many([{"n": 1}, {"n": 2}]),
    "cancel": lambda app, job: app.cancel(job),
    "cancel of many": lambda app, _: app.jobs.cancel(JobFilter(task="t"), by="ann"),
    "edit": lambda app, job: app.edit(job, {"n": 3}),
    "pause": lambda app, _: app.queues.pause("default"),
    "publish": lambda app, _: app.publish("order.paid", {"id": 1}),
    "signal": lambda app, job: app.signal(job, "go"),
    "lock": lambda app, _: app.lock("k", wait=5).__enter__(),
    "wait": lambda app, job: app.wait(job, 20),
    "await": lambda app, job: asyncio.run(app.await_result(job, 20)),
}


def read_only(dsn: str) -> str:
    return make_conninfo(dsn, options="-c default_transaction_read_only=on")


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def standby(app: App, dsn: str) -> Iterator[App]:
    """An app whose DSN leads to what takes no writes."""
    there = App(read_only(dsn))
    there.task(name="t")(_t)
    yield there
    there.close()


def _t(n: int) -> None: ...


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_that_nothing_can_be_written_and_how_to_reach_the_primary(
    app: App, standby: App, conn: Conn, verb: str
) -> None:
    app.task(name="t")(_t)
    job = app.enqueue("t", {"n": 1})
    with pytest.raises(ReadOnlyDatabase, match=r"takes no writes here .*\?target_session_attrs=read-write") as error:
        VERBS[verb](standby, job.id)
    assert isinstance(error.value, DatabaseNotReady)
    assert (error.value.sqlstate, error.value.exit_code) == ("25006", 69)
    assert standby.get(job.id).args == {"n": 1}
    assert len(standby.jobs.list(JobFilter(task="t"))) == 1
    assert scalar(conn, "select count(*) from pgqueue.job where state = 'pending'") == 1


def test_it_is_the_same_on_the_connection_of_a_caller(app: App, dsn: str) -> None:
    with psycopg.connect(dsn) as borrowed:
        borrowed.execute("set transaction read only")
        with pytest.raises(ReadOnlyDatabase):
            app.using(borrowed).enqueue("t")
        borrowed.rollback()
        assert app.using(borrowed).enqueue("t").id > 0

    async def by_asyncpg() -> None:
        conn = await asyncpg.connect(**for_asyncpg(dsn))
        with pytest.raises(ReadOnlyDatabase):
            async with conn.transaction(readonly=True):
                await app.using(conn).aenqueue("t")
        await conn.close()

    asyncio.run(by_asyncpg())


def test_a_pool_leaves_a_server_that_has_become_read_only(app: App) -> None:
    """After a failover only a new connection asks which server takes writes."""
    with app.backend.pools.connection() as conn:
        conn.execute("set default_transaction_read_only = on")
    with pytest.raises(ReadOnlyDatabase):
        app.enqueue("t")
    assert app.enqueue("t").id > 0

    async def by_async_pool() -> int:
        async with app.backend.pools.async_connection() as conn:
            await conn.execute("set default_transaction_read_only = on")
        with pytest.raises(ReadOnlyDatabase):
            await app.aenqueue("t")
        return (await app.aenqueue("t")).id

    assert asyncio.run(by_async_pool()) > 0


def test_a_wait_goes_on_while_the_server_that_it_had_is_read_only(app: App, conn: Conn) -> None:
    app.task(name="t")(lambda: 7)
    first = app.enqueue("t")
    drain(app, conn)
    assert first.wait(10) == 7  # this process has waited on a server that takes writes
    second, name = app.enqueue("t"), conn.info.dbname
    conn.execute(f'alter database "{name}" set default_transaction_read_only = on')
    conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgqueue waits'")
    waiting = InThread(lambda: second.wait(60))
    wait_for(lambda: hub_of(app)._backoff.failures > 2, "the wait to meet a server that is read-only")
    assert not waiting.done
    conn.execute(f'alter database "{name}" reset default_transaction_read_only')
    drain(app, conn)
    assert waiting.result() == 7


@pytest.mark.parametrize("command", [["enqueue", "t", "{}"], ["pause", "-Q", "default"], ["jobs", "cancel", "1"]])
def test_a_command_says_it_too(dsn: str, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--dsn", read_only(dsn)])
    assert end.value.code == 69
    said = capsys.readouterr().err
    assert "takes no writes here" in said
    assert "target_session_attrs=read-write" in said
    assert "Traceback" not in said


def test_a_migration_says_it_too(dsn: str) -> None:
    with pytest.raises(ReadOnlyDatabase):
        migrate.upgrade(read_only(dsn), "other")


def test_an_error_of_a_function_that_may_not_write_means_the_same() -> None:
    class Error(Exception):
        sqlstate = "25006"
        context = "SQL statement in function enqueue"

    assert isinstance(explained(Error("cannot execute INSERT in a read-only transaction")), ReadOnlyDatabase)
