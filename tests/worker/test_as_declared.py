"""What users write above a task, and in their app, is what workers do."""

import asyncio
import os
from collections import Counter

import psycopg
import pytest

from pgqueue import App, Breaker, Context, Limit, RateLimited
from pgqueue.worker import Worker, WorkerSettings
from tests.conftest import drain, eventually, scalar
from tests.harness import Conn


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def began(app: App) -> Counter[str]:
    """How often each task began. A task `plain`, which no rule concerns, shows that workers have claimed since."""
    counts: Counter[str] = Counter()

    @app.task(name="plain")
    async def plain() -> None:
        counts["plain"] += 1

    return counts


async def claimed_since(app: App, began: Counter[str]) -> None:
    """Wait until workers have claimed and begun a job that is enqueued now."""
    wanted = began["plain"] + 1
    await app.aenqueue("plain")
    await eventually(lambda: began["plain"] == wanted, "the plain job")


class Working:
    """Workers in this process, for the time of a block."""

    def __init__(self, app: App, count: int = 1, concurrency: int = 4) -> None:
        settings = WorkerSettings(concurrency=concurrency, poll_seconds=0.05, shutdown_timeout=0.1)
        self._app = app
        self._workers = [Worker(app, settings) for _ in range(count)]

    async def __aenter__(self) -> None:
        self._running = [asyncio.create_task(worker.run()) for worker in self._workers]

    async def __aexit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()
        await asyncio.gather(*self._running)
        await self._app.aclose()


def test_a_breaker_stops_a_task_that_fails_until_it_is_opened(app: App, conn: Conn, began: Counter[str]) -> None:
    broken = True

    @app.task(name="ping", limit=Limit(1), breaker=Breaker(2, cooldown=3600), max_attempts=1)
    async def ping(n: int) -> int:
        began["ping"] += 1
        if broken:
            raise ConnectionError("down")
        return n

    jobs = ping.enqueue_many([{"n": n} for n in range(6)])
    ended = "select count(*) from pgqueue.job where state = %s"

    async def scenario() -> None:
        nonlocal broken
        async with Working(app):
            await eventually(lambda: scalar(conn, ended, "failed") == 2, "two failures")
            await claimed_since(app, began)
            assert began["ping"] == 2
            (limit,) = [one for one in await app.limits.alist() if one.rule == "ping" and one.closed_until]
            assert limit.waiting == 4
            assert [app.get(job).attempt for job in jobs] == [1, 1, 0, 0, 0, 0]
            broken = False
            await app.aresume(limit="ping")
            await eventually(lambda: scalar(conn, ended, "succeeded") == 5, "the others and the plain job")

    asyncio.run(scenario())


def test_a_job_of_a_key_that_runs_already_is_skipped(app: App, conn: Conn) -> None:
    synced: list[int] = []

    @app.task(name="sync", limit=Limit(1, by="user", on_full="skip"))
    async def sync(user: int) -> str:
        synced.append(user)
        if user == 7:
            await go.wait()
        return "synced"

    go = asyncio.Event()

    async def scenario() -> None:
        async with Working(app):
            first = await sync.aenqueue(7)
            await eventually(lambda: synced == [7], "the first job")
            again, other = await sync.aenqueue(7), await sync.aenqueue(8)
            assert await other.await_result(30) == "synced"
            await eventually(lambda: app.get(again.id).state == "cancelled", "the skip")
            assert (app.get(again.id).reason, app.get(again.id).attempt) == ("skipped: sync/7 is full", 0)
            go.set()
            assert await first.await_result(30) == "synced"

    asyncio.run(scenario())
    assert synced == [7, 8]


@pytest.mark.parametrize(("scope", "starts"), [("fleet", 1), ("worker", 2)])
def test_a_rate_is_kept_by_all_workers_together_unless_each_is_to_count_for_itself(
    app: App, conn: Conn, began: Counter[str], scope: str, starts: int
) -> None:
    @app.task(name="geocode", rate_limit="1/h", rate_scope=scope)  # type: ignore[call-overload]
    async def geocode(address: str) -> None:
        began["geocode"] += 1

    for n in range(6):
        app.enqueue("geocode", {"address": str(n)})

    async def scenario() -> None:
        async with Working(app, 2):
            await eventually(lambda: began["geocode"] == starts, "the starts")
            await claimed_since(app, began)

    asyncio.run(scenario())
    assert began["geocode"] == starts
    assert scalar(conn, "select array_agg(distinct attempt::int) from pgqueue.job_live") == [0]


def test_a_service_that_asks_for_later_is_asked_by_no_other_job_of_its_key(
    app: App, conn: Conn, began: Counter[str]
) -> None:
    @app.task(name="call", limit=Limit(1, by="customer"), max_attempts=1)
    async def call(customer: str) -> None:
        began[customer] += 1
        if customer == "acme":
            raise RateLimited(retry_after=3600)

    call.enqueue_many([{"customer": "acme"}] * 3 + [{"customer": "zen"}] * 2)

    async def scenario() -> None:
        async with Working(app):
            await eventually(lambda: began["acme"] == 1 and began["zen"] == 2, "the calls")
            await claimed_since(app, began)

    asyncio.run(scenario())
    assert began == {"acme": 1, "zen": 2, "plain": 1}
    assert scalar(conn, "select array_agg(attempt::int) from pgqueue.job_live") == [0, 0, 0]


def test_options_of_the_app_hold_for_its_tasks_and_a_tasks_own_go_first(dsn: str, conn: Conn) -> None:
    app = App(dsn, queue="mail", max_attempts=2, retry=[0.0])

    @app.task(name="plain")
    def plain() -> None:
        raise OSError

    @app.task(name="own", queue="bulk", max_attempts=3)
    def own() -> None:
        raise OSError

    jobs = plain.enqueue(), own.enqueue()
    drain(app, conn, queues=["mail", "bulk"])
    ended = [app.get(job.id) for job in jobs]
    assert [(job.state, job.queue, job.attempt) for job in ended] == [("failed", "mail", 2), ("failed", "bulk", 3)]
    app.close()


def test_an_upsert_leaves_one_row_though_its_job_runs_twice(app: App, conn: Conn) -> None:
    conn.execute("create table public.total (day text primary key, cents int)")

    @app.task(name="count", retry=[0.0])
    def count(ctx: Context, day: str) -> None:
        with psycopg.connect(app.dsn) as own:  # not the transaction of the job: it is committed before the failure
            own.execute(
                "insert into public.total values (%s, %s) on conflict (day) do update set cents = excluded.cents",
                (day, 100 * ctx.attempt),
            )
        if ctx.attempt == 1:
            raise ConnectionError("after the write")

    job = count.enqueue("monday")
    drain(app, conn)
    assert app.get(job.id).attempt == 2
    assert conn.execute("select * from public.total").fetchall() == [("monday", 200)]


def test_a_child_process_is_replaced_after_so_many_jobs(app: App, conn: Conn) -> None:
    @app.task(name="pid", isolation="process")
    def pid(n: int) -> int:
        return os.getpid()

    jobs = pid.enqueue_many([{"n": n} for n in range(4)])
    drain(app, conn, concurrency=1, max_jobs_per_child=2)
    first, second, third, fourth = (app.get(job).result for job in jobs)
    assert first == second != third == fourth
