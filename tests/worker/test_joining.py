"""Verbs inside ctx.transaction() that name no connection take effect with it, or not at all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pgqueue import OWN_CONNECTION, App, Context, JobState, UnsupportedConnection, testing
from pgqueue.client.task import Task
from tests.conftest import scalar, work
from tests.harness import Conn, wait_for

FOLLOWING = "select count(*) from pgqueue.job where task = 'next'"


@pytest.fixture
def following(app: App) -> Task[[int], None]:
    @app.task(name="next", queue="later")  # no worker of these tests serves it
    def following(number: int) -> None: ...

    return following


def run(app: App, task: Task[[], Any]) -> JobState:
    """Run a job of this task; return the state in which it ended."""
    job = task.enqueue()
    asyncio.run(work(app, lambda: app.get(job.id).finished_at))
    return app.get(job.id).state


@pytest.mark.parametrize("good", [True, False], ids=["committed", "rolled back"])
@pytest.mark.parametrize("kind", ["thread", "loop", "process"])
def test_a_bare_enqueue_commits_or_rolls_back_with_the_block(
    app: App, conn: Conn, following: Task[[int], None], kind: str, good: bool
) -> None:
    def pay(ctx: Context) -> None:
        with ctx.transaction():
            following.enqueue(1)
            following.enqueue_many([{"number": 2}, {"number": 3}])
            app.enqueue("next", {"number": 4})
            if not good:
                raise ConnectionError("card reader")

    async def apay(ctx: Context) -> None:
        async with ctx.atransaction():
            await following.aenqueue(1)
            await following.aenqueue_many([{"number": 2}, {"number": 3}])
            await app.aenqueue("next", {"number": 4})
            if not good:
                raise ConnectionError("card reader")

    how: Any = {"isolation": "process"} if kind == "process" else {}
    task = app.task(name="pay", max_attempts=1, **how)(apay if kind == "loop" else pay)
    assert (run(app, task), scalar(conn, FOLLOWING)) == (("succeeded", 4) if good else ("failed", 0))


def test_other_verbs_join_too(app: App, conn: Conn, following: Task[[int], None]) -> None:
    doomed = following.enqueue(1)
    seen: list[object] = []

    @app.task(name="pay", max_attempts=1)
    def pay(ctx: Context) -> None:
        with ctx.transaction():
            seen.append(app.get(following.enqueue(2).id).state)
            seen.append(app.cancel(doomed.id))
            app.schedules.create("nightly", following, "0 3 * * *", args={"number": 3})
            raise ConnectionError("card reader")

    run(app, pay)
    assert seen == ["pending", True]
    assert app.get(doomed.id).state == "pending"
    assert app.schedules.list() == []


def test_neither_the_own_connection_nor_another_app_joins(app: App, conn: Conn, following: Task[[int], None]) -> None:
    other = App(app.dsn)

    @app.task(name="pay", max_attempts=1)
    def pay(ctx: Context) -> None:
        with ctx.transaction():
            following.using(OWN_CONNECTION).enqueue(1)
            other.enqueue("next", {"number": 2})
            raise ConnectionError("card reader")

    run(app, pay)
    other.close()
    assert scalar(conn, FOLLOWING) == 2


def test_after_the_block_nothing_joins_it(app: App, conn: Conn, following: Task[[int], None]) -> None:
    outlived: list[asyncio.Task[object]] = []

    @app.task(name="pay", max_attempts=1)
    async def pay(ctx: Context) -> None:
        committed = asyncio.Event()

        async def later() -> object:
            await committed.wait()
            return await following.aenqueue(1)

        async with ctx.atransaction():
            outlived.append(asyncio.create_task(later()))
        committed.set()
        await outlived[0]
        await following.aenqueue(2)

    run(app, pay)
    assert scalar(conn, FOLLOWING) == 2


def test_a_verb_of_the_other_colour_is_refused_with_the_remedy(
    app: App, conn: Conn, following: Task[[int], None]
) -> None:
    raised: list[str] = []

    async def apay(ctx: Context) -> None:
        async with ctx.atransaction():
            with pytest.raises(UnsupportedConnection) as caught:
                following.enqueue(1)
            raised.append(str(caught.value))

    def pay(ctx: Context) -> None:
        with ctx.transaction():
            with pytest.raises(UnsupportedConnection) as caught:
                asyncio.run(_await(lambda: following.aenqueue(1)))
            raised.append(str(caught.value))

    run(app, app.task(name="async")(apay))
    run(app, app.task(name="sync")(pay))
    assert "with an a" in raised[0]
    assert "without an a" in raised[1]
    assert all("using(pgqueue.OWN_CONNECTION)" in one for one in raised)
    assert scalar(conn, FOLLOWING) == 0


async def _await(call: Callable[[], Awaitable[object]]) -> None:
    await call()


def own_backends(conn: Conn) -> set[int]:
    own = "select pid from pg_stat_activity where application_name = 'pgqueue' and datname = current_database()"
    return {pid for (pid,) in conn.execute(own).fetchall()}


def test_full_pools_of_blocks_that_enqueue_need_no_second_connection(
    app: App, conn: Conn, following: Task[[int], None]
) -> None:
    backends: set[int] = set()
    together = asyncio.Barrier(8)

    @app.task(name="pay", max_attempts=1)
    async def pay(ctx: Context) -> None:
        async with ctx.atransaction():
            await together.wait()
            await following.aenqueue(1)
            backends.update(own_backends(conn))
            await together.wait()

    for _ in range(8):
        pay.enqueue()
    app.close()  # the connection of these calls
    wait_for(lambda: not own_backends(conn), "the end of that connection")
    asyncio.run(work(app, lambda: scalar(conn, FOLLOWING) == 8))
    assert len(backends) == 8


def test_in_a_users_test_it_joins_as_well(app: App, following: Task[[int], None]) -> None:
    @app.task(name="pay", max_attempts=1)
    def pay(ctx: Context, good: bool) -> None:
        with ctx.transaction():
            following.enqueue(1)
            if not good:
                raise ConnectionError("card reader")

    with testing.rolled_back(app) as jobs:
        pay.enqueue(False)
        jobs.drain(queues=["default"])
        jobs.assert_not_enqueued(following)
        pay.enqueue(True)
        jobs.drain(queues=["default"])
        jobs.assert_enqueued(following, args={"number": 1})
