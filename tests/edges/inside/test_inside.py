"""A worker, a scheduler or both inside this process: what entering and leaving the block does."""

import asyncio
import logging
import threading
from datetime import timedelta
from typing import Any

import pytest

from pgqueue import App, DatabaseUnreachable, InvalidOption, NotMigrated
from pgqueue.inside import worker_settings
from pgqueue.scheduler import SchedulerSettings, SchedulerThread
from tests.conftest import eventually, scalar
from tests.harness import Conn, wait_for

PROCESSES = "select count(*) from pgqueue.worker"
FINISHED = "select count(*) from pgqueue.job_finished where state = 'succeeded'"


def test_a_worker_in_the_event_loop_of_its_block(app: App, conn: Conn) -> None:
    where: list[asyncio.AbstractEventLoop] = []

    @app.task(name="t")
    async def t() -> None:
        where.append(asyncio.get_running_loop())

    async def serve() -> None:
        async with app.worker(concurrency=2):
            assert scalar(conn, PROCESSES) == 1
            t.enqueue()
            await eventually(lambda: scalar(conn, FINISHED) == 1, "the job")
        assert where == [asyncio.get_running_loop()]

    asyncio.run(serve())
    assert scalar(conn, PROCESSES) == 0


def test_a_worker_in_a_thread(app: App, conn: Conn) -> None:
    where: list[str] = []

    @app.task(name="t")
    async def t() -> None:
        where.append(threading.current_thread().name)

    with app.worker():
        t.enqueue()
        wait_for(lambda: scalar(conn, FINISHED) == 1)
    assert where == ["pgqueue-worker"]
    assert scalar(conn, PROCESSES) == 0


@pytest.mark.parametrize("kind", ["loop", "thread"])
def test_leaving_waits_for_the_jobs_that_run(app: App, conn: Conn, kind: str) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @app.task(name="t")
    def t() -> None:
        begun.set()
        assert go_on.wait(30)

    def leave() -> None:  # the job goes on when its worker claims no more, which its row says
        wait_for(lambda: scalar(conn, "select count(*) from pgqueue.job_live where state = 'pending'") == 1)
        go_on.set()

    async def in_loop() -> None:
        async with app.worker(concurrency=1):
            t.enqueue()
            assert await asyncio.to_thread(begun.wait, 30)
            t.enqueue()
            threading.Thread(target=leave).start()

    t.enqueue() if kind == "thread" else None
    if kind == "loop":
        asyncio.run(in_loop())
    else:
        with app.worker(concurrency=1):
            assert begun.wait(30)
            t.enqueue()
            threading.Thread(target=leave).start()
    assert scalar(conn, FINISHED) >= 1
    assert scalar(conn, "select count(*) from pgqueue.job_live where state = 'running'") == 0


def test_a_job_that_does_not_end_is_cancelled_and_released_at_the_end_of_the_time(app: App, conn: Conn) -> None:
    begun = threading.Event()

    @app.task(name="t")
    async def t() -> None:
        begun.set()
        await asyncio.Event().wait()

    with app.worker(shutdown_timeout=0.1):
        t.enqueue()
        assert begun.wait(30)
    assert conn.execute("select state, attempt from pgqueue.job_live").fetchall() == [("pending", 0)]


@pytest.mark.parametrize("kind", ["loop", "thread"])
def test_entering_says_why_it_cannot_start(empty_dsn: str, kind: str) -> None:
    app = App(empty_dsn)

    async def serve() -> None:
        async with app.worker():
            raise AssertionError

    def enter() -> None:
        with app.worker():
            raise AssertionError

    with pytest.raises(NotMigrated):
        asyncio.run(serve()) if kind == "loop" else enter()


def test_a_database_that_does_not_answer_is_told_when_the_block_is_entered() -> None:
    with pytest.raises(DatabaseUnreachable), App("postgresql://127.0.0.1:1/none").worker():
        raise AssertionError


def test_the_error_of_the_block_comes_out_and_the_worker_has_ended(app: App, conn: Conn) -> None:
    async def serve() -> None:
        async with app.worker():
            raise ValueError("of the server")

    with pytest.raises(ValueError, match="of the server"):
        asyncio.run(serve())
    assert scalar(conn, PROCESSES) == 0


def test_a_block_that_is_cancelled_leaves_no_job_running(app: App, conn: Conn) -> None:
    begun = asyncio.Event()

    @app.task(name="t")
    async def t() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def serve() -> None:
        async with app.worker():
            t.enqueue()
            await begun.wait()

    async def twice() -> None:
        serving = asyncio.create_task(serve())
        await begun.wait()
        await asyncio.sleep(0)  # the block is being left
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(twice())
    assert conn.execute("select state, attempt from pgqueue.job_live").fetchall() == [("pending", 0)]
    assert scalar(conn, PROCESSES) == 0


def test_schedules_fire_beside_a_worker_and_without_one(app: App, conn: Conn) -> None:
    @app.schedule(timedelta(seconds=1))
    @app.task(name="tick")
    async def tick() -> None: ...

    with app.scheduler(poll_seconds=0.1):
        assert scalar(conn, "select array_agg(kind) from pgqueue.worker") == ["scheduler"]
        wait_for(lambda: scalar(conn, "select count(*) from pgqueue.schedule_fire") > 0)
    with app.worker(scheduler=True, poll_seconds=0.1):
        wait_for(lambda: scalar(conn, FINISHED) > 1)
    assert scalar(conn, PROCESSES) == 0


def test_a_worker_that_an_operator_stops_ends_alone(app: App, conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pgqueue"), app.worker():
        app.workers.stop(scalar(conn, "select id from pgqueue.worker"))
        wait_for(lambda: scalar(conn, PROCESSES) == 0)
        wait_for(lambda: "has ended before its server: it was stopped" in caplog.text)


def test_leaving_waits_for_the_jobs_of_a_worker_that_an_operator_has_stopped(app: App, conn: Conn) -> None:
    begun, go_on = asyncio.Event(), threading.Event()

    @app.task(name="t")
    async def t() -> None:
        begun.set()
        await asyncio.to_thread(go_on.wait)

    async def serve() -> None:
        async with app.worker():
            t.enqueue()
            await begun.wait()
            app.workers.stop(scalar(conn, "select id from pgqueue.worker"))
            await eventually(lambda: scalar(conn, "select stopping from pgqueue.worker"), "the stop")
            asyncio.get_running_loop().call_later(0.3, go_on.set)

    asyncio.run(serve())
    assert scalar(conn, FINISHED) == 1


def test_a_switch_for_processes_that_only_serve(app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_EMBEDDED_WORKER", "0")
    with app.worker(scheduler=True), app.scheduler():
        assert scalar(conn, PROCESSES) == 0
    monkeypatch.setenv("PGQUEUE_EMBEDDED_WORKER", "off")
    with pytest.raises(InvalidOption, match=r"PGQUEUE_EMBEDDED_WORKER='off' cannot be used: give 0"), app.worker():
        raise AssertionError


@pytest.mark.parametrize(
    ("options", "served", "slots"),
    [
        ({"queues": ["a", "b"]}, ["a", "b"], 8),
        ({"queues": "a:6,b:2"}, ["a", "b"], 8),
        ({"queues": "a:4c,b:3c"}, ["a", "b"], 7),
        ({"queues": "a,b", "concurrency": 3}, ["a", "b"], 3),
    ],
)
def test_queues_are_given_as_a_list_or_as_the_command_line_takes_them(
    app: App, conn: Conn, options: Any, served: list[str], slots: int
) -> None:
    with app.worker(**options):
        assert conn.execute("select queues, slots from pgqueue.worker").fetchall() == [(served, slots)]


def test_options_that_cannot_be_used_are_refused_before_anything_starts(app: App) -> None:
    with pytest.raises(InvalidOption, match="concurrency 0 cannot be used"), app.worker(concurrency=0):
        raise AssertionError
    with pytest.raises(InvalidOption):
        app.worker(lease_seconds=-1)
    with pytest.raises(InvalidOption, match="give a share of 1 to 1000"):
        app.worker(queues="a:0")


def test_shares_stand_with_the_queues_or_apart(app: App, conn: Conn) -> None:
    given = worker_settings({"queues": "a,b:3", "shares": {"a": 3, "b:3": 1}})
    assert (given.queues, given.shares) == (["a", "b:3"], {"a": 3, "b:3": 1})
    with pytest.raises(InvalidOption, match=r"shares are given twice, in queues='a:3,b:1' and in shares=…"):
        app.worker(queues="a:3,b:1", shares={"a": 1, "b": 1})


def test_one_block_at_a_time(app: App, conn: Conn) -> None:
    inside = app.worker()

    async def twice() -> None:
        async with inside:
            with pytest.raises(InvalidOption, match="runs already"):
                await inside.__aenter__()
        async with inside:
            pass

    asyncio.run(twice())
    with inside:
        with pytest.raises(InvalidOption, match="runs already"), inside:
            raise AssertionError
        assert scalar(conn, PROCESSES) == 1
    with inside:
        assert scalar(conn, PROCESSES) == 1
    assert scalar(conn, PROCESSES) == 0


def test_a_start_that_is_cancelled_leaves_nothing(app: App, conn: Conn) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    app.on_worker_stop(ended.set)

    @app.on_worker_start
    async def wait() -> None:
        begun.set()
        await asyncio.to_thread(go_on.wait)

    async def start() -> None:
        starting = asyncio.create_task(app.worker().__aenter__())
        assert await asyncio.to_thread(begun.wait, 30)
        starting.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert ended.is_set()
        assert scalar(conn, PROCESSES) == 0

    asyncio.run(start())


def test_a_waiter_that_is_cancelled_does_not_end_the_start_of_a_scheduler(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    async def start() -> None:
        scheduler = SchedulerThread(app, SchedulerSettings())
        scheduler.start(lambda: None)
        asyncio.wrap_future(scheduler.started).cancel()
        await asyncio.sleep(0)
        await asyncio.wrap_future(scheduler.started)
        scheduler.stop()
        await asyncio.to_thread(scheduler.join, 30.0)

    asyncio.run(start())
    assert "InvalidStateError" not in caplog.text
