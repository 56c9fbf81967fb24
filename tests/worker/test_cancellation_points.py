"""Cancelled at each of its awaits in turn: nothing half-written, no connection lost, the next call works. F36."""

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from pgqueue import App, db
from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.tasks.context import Signals
from pgqueue.worker.running.completion import Completion
from tests.conftest import eventually, scalar
from tests.harness import QUERIES, Conn, add_worker, new_job

Work = Coroutine[Any, Any, Any]
CONNECTIONS = "select count(*) from pg_stat_activity where datname = current_database() and application_name like %s"
HALF = """select count(*) from pgqueue.job_live j full join
(select * from pgqueue.transition where to_state = 'pending') t on t.job_id = j.id
where j.id is null or t.job_id is null"""


class CancelledAt:
    """Awaits a coroutine and cancels the task where it suspends for the n-th time.

    `late`: the awaited thing has happened already when the cancellation comes, so that its answer is dropped.
    """

    def __init__(self, work: Work, number: int, *, late: bool) -> None:
        self._work, self._number, self._late = work, number, late
        self.reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        for count in itertools.count(1):
            try:
                waits_for = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as stop:
                return stop.value
            error = None
            here = count == self._number
            self.reached = self.reached or here
            if here and not self._late:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waits_for
            except BaseException as raised:  # noqa: BLE001 - handed on to the coroutine
                error = raised
            if here and self._late and error is None:
                error = asyncio.CancelledError()
        raise AssertionError("not reached")


async def cancel_everywhere(work: Callable[[], Work], after: Callable[[], Awaitable[None]]) -> int:
    """Cancel at each await, before and after its answer has come; return how many awaits there are."""
    return min([await _cancel_everywhere(work, after, late) for late in (False, True)])


async def _cancel_everywhere(work: Callable[[], Work], after: Callable[[], Awaitable[None]], late: bool) -> int:
    """Cancel `work()` at each of its awaits in turn, and check after each; return how many there are."""
    for number in itertools.count(1):
        attempt = CancelledAt(work(), number, late=late)

        async def alone(attempt: CancelledAt = attempt) -> Any:
            return await attempt

        task = asyncio.create_task(alone())
        await asyncio.wait([task], timeout=30)
        assert task.done(), f"still waiting after a cancellation at await {number}"
        if not attempt.reached:
            task.result()
            return number - 1
        # Before Python 3.12 asyncio.wait_for() prefers an answer that has come to the cancellation: then a wait for the
        # pool goes on and the work is finished.
        assert task.cancelled() or (late and task.exception() is None), f"await {number}: {task!r}"
        await after()
    raise AssertionError("not reached")


async def gone(conn: Conn, name: str) -> None:
    gc.collect()  # psycopg leaves the socket of a cancelled connect() to the garbage collector
    await eventually(lambda: scalar(conn, CONNECTIONS, name) == 0, f"the end of all connections called {name}")


@asynccontextmanager
async def one_connection(app: App) -> AsyncIterator[App]:
    """The app with a pool of one connection: a second call waits for ever if the first one lost it."""
    app.backend.pools = db.Pools(lambda: app.database, 1)
    await app.using().aenqueue("warm")
    yield app
    await app.aclose()


@pytest.mark.parametrize("opened", [True, False], ids=["opened", "closed"])
def test_a_link_that_was_cancelled_anywhere_works_again(dsn: str, conn: Conn, opened: bool) -> None:
    async def scenario() -> int:
        link = Link(db.Database(dsn), "cancelled link")

        async def prepare_and_run() -> Any:
            return await link.run(QUERIES.jobs.enqueue([new_job()]))

        async def check() -> None:
            assert scalar(conn, HALF) == 0
            if opened:
                await link.run(QUERIES.schema.check())
                assert scalar(conn, CONNECTIONS, "cancelled link") <= 2  # one may still be closing
            else:
                await link.close()

        if opened:
            await link.run(QUERIES.schema.check())
        awaits = await cancel_everywhere(prepare_and_run, check)
        await link.close()
        await gone(conn, "cancelled link")
        return awaits

    assert asyncio.run(scenario()) >= 1


def test_an_enqueue_in_the_callers_transaction_is_cancelled_with_it(dsn: str, app: App, conn: Conn) -> None:
    conn.execute("create table public.business (id int)")

    async def scenario() -> int:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as mine:

            async def order() -> None:
                async with mine.transaction():
                    await mine.execute("insert into public.business values (1)")
                    await app.using(mine).aenqueue("t")

            async def check() -> None:
                assert mine.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                await (await mine.execute("select 1")).fetchone()
                assert scalar(conn, HALF) == 0
                orders = scalar(conn, "select count(*) from public.business")
                assert orders == scalar(conn, "select count(*) from pgqueue.job_live")

            return await cancel_everywhere(order, check)

    assert asyncio.run(scenario()) >= 3


def test_an_enqueue_on_a_pooled_connection_gives_it_back(app: App, conn: Conn) -> None:
    async def scenario() -> int:
        async with one_connection(app):

            async def check() -> None:
                assert scalar(conn, HALF) == 0
                await app.using().aenqueue("after")

            awaits = await cancel_everywhere(lambda: app.using().aenqueue("t"), check)
        await gone(conn, "pgqueue")
        return awaits

    assert asyncio.run(scenario()) >= 1


def test_the_first_enqueue_of_an_app_may_be_cancelled_while_it_opens_its_pool(dsn: str, conn: Conn) -> None:
    async def scenario() -> int:
        apps = []

        def first() -> Work:
            apps.append(App(dsn))
            return apps[-1].using().aenqueue("t")

        async def check() -> None:
            assert scalar(conn, HALF) == 0
            await apps[-1].using().aenqueue("after")
            await apps[-1].aclose()

        awaits = await cancel_everywhere(first, check)
        for app in apps:
            await app.aclose()
        await gone(conn, "pgqueue")
        return awaits

    assert asyncio.run(scenario()) >= 3


@pytest.mark.parametrize("pooled", [True, False], ids=["worker", "child"])
def test_a_task_cancelled_in_its_transaction_has_its_effect_and_its_end_or_neither(
    app: App, conn: Conn, pooled: bool
) -> None:
    conn.execute("create table public.effect (job_id bigint)")
    worker = add_worker(conn)
    differ = """select count(*) from (select id from pgqueue.job_finished where state = 'succeeded') j
    full join public.effect e on e.job_id = j.id where j.id is null or e.job_id is null"""

    def claim() -> ClaimedJob:
        conn.execute("delete from pgqueue.job_live")
        db.run(conn, QUERIES.jobs.enqueue([new_job()]))
        return db.run(conn, QUERIES.jobs.claim(worker, {"default": 1}, 1))[0]

    async def pay() -> None:
        job = claim()
        async with Completion(app, job, Signals(), pooled=pooled).atransaction("paid") as mine:
            await mine.execute("insert into public.effect values (%s)", [job.id])

    async def check() -> None:
        assert scalar(conn, differ) == 0
        await app.using().aenqueue("after", {})

    async def scenario() -> int:
        async with one_connection(app):
            awaits = await cancel_everywhere(pay, check)
        assert scalar(conn, "select count(*) from public.effect") >= 1
        assert scalar(conn, differ) == 0
        await gone(conn, "pgqueue%")
        return awaits

    assert asyncio.run(scenario()) >= 3
