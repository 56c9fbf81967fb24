"""Short async jobs run one after the other in one asyncio task, unnoticed by the jobs."""

import asyncio
import contextvars
import time
from typing import Any

import pytest

from pgqueue import App
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.running.attempts import STRETCH_SECONDS
from tests.conftest import drain, eventually, scalar
from tests.harness import Conn


def states(conn: Conn) -> dict[str, int]:
    """Return how many jobs are in each state."""
    return dict(conn.execute("select state, count(*) from pgqueue.job group by 1").fetchall())


def test_jobs_that_do_not_suspend_share_a_task_and_one_that_does_keeps_it(app: App, conn: Conn) -> None:
    seen: list[tuple[int, asyncio.Task[Any] | None, asyncio.Task[Any] | None]] = []

    @app.task(name="t")
    async def t(n: int) -> None:
        before = asyncio.current_task()
        if n % 10 == 5:
            await asyncio.sleep(0.01)
        seen.append((n, before, asyncio.current_task()))

    t.enqueue_many({"n": n} for n in range(50))
    drain(app, conn)
    assert sorted(n for n, _, _ in seen) == list(range(50))
    assert all(before is after for _, before, after in seen)
    suspended = [task for n, task, _ in seen if n % 10 == 5]
    assert len(set(suspended)) == 5
    assert len({task for _, task, _ in seen}) < 25


def test_what_a_job_sets_in_its_context_is_gone_for_the_next(app: App, conn: Conn) -> None:
    mine = contextvars.ContextVar("mine", default=0)

    @app.task(name="t", max_attempts=1)
    async def t(n: int) -> None:
        assert mine.get() == 0
        if n % 3:
            mine.set(n)

    t.enqueue_many({"n": n} for n in range(50))
    drain(app, conn)
    assert states(conn) == {"succeeded": 50}


def test_cancelling_one_leaves_those_before_and_after_it_alone(app: App, conn: Conn) -> None:
    begun = asyncio.Event()

    @app.task(name="quick")
    async def quick() -> None: ...

    @app.task(name="long")
    async def long() -> None:
        begun.set()
        await asyncio.Event().wait()

    quick.enqueue_many({} for _ in range(5))
    stuck = long.enqueue()
    quick.enqueue_many({} for _ in range(5))

    async def run() -> None:
        worker = Worker(app, WorkerSettings())
        running = asyncio.create_task(worker.run())
        await begun.wait()
        await app.acancel(stuck.id)
        await eventually(lambda: states(conn) == {"succeeded": 10, "cancelled": 1}, "one to be cancelled")
        worker.stop()
        await running

    asyncio.run(run())
    assert app.get(stuck.id).state == "cancelled"


@pytest.mark.parametrize("suspends", [False, True])
def test_a_job_that_cancels_its_own_task_ends_alone(app: App, conn: Conn, suspends: bool) -> None:
    @app.task(name="odd", max_attempts=1)
    async def odd() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if suspends:
            await asyncio.sleep(0)

    @app.task(name="quick")
    async def quick() -> None:
        await asyncio.sleep(0)

    for _ in range(3):
        quick.enqueue()
        odd.enqueue()
    quick.enqueue()
    until = "select count(*) = 0 from pgqueue.job_live where task = 'quick'"

    async def run() -> None:
        worker = Worker(app, WorkerSettings())
        running = asyncio.create_task(worker.run())
        await eventually(lambda: scalar(conn, until), "the others to run")
        worker.stop()
        await running

    asyncio.run(run())
    assert scalar(conn, "select count(*) from pgqueue.job_finished where task = 'quick' and state = 'succeeded'") == 4


@pytest.mark.parametrize("suspends", [False, True])
def test_a_job_that_cancels_every_task_leaves_a_worker_that_begins_jobs(app: App, conn: Conn, suspends: bool) -> None:
    """While a slot is free, an asyncio task that has not begun yet is to begin the next job: it is cancelled, too."""

    @app.task(name="cancel_all", max_attempts=1)
    async def cancel_all() -> None:
        for task in asyncio.all_tasks() - keep:
            task.cancel()
        if suspends:
            await asyncio.sleep(0)

    @app.task(name="quick")
    async def quick() -> None: ...

    keep: set[asyncio.Task[Any]] = set()
    cancel_all.enqueue()
    quick.enqueue_many({} for _ in range(5))

    async def run() -> None:
        worker = Worker(app, WorkerSettings(concurrency=2, poll_seconds=0.1))
        running = asyncio.create_task(worker.run())
        keep.update({asyncio.current_task() or running, running})
        await eventually(lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live"), "all to run")
        worker.stop()
        await running

    asyncio.run(run())
    assert states(conn) == ({"failed": 1, "succeeded": 5} if suspends else {"succeeded": 6})


def test_the_event_loop_turns_between_jobs_that_hold_it(app: App, conn: Conn) -> None:
    turns = 0
    seen: list[int] = []

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    @app.task(name="t")
    async def t() -> None:
        if not seen:
            turn()
        seen.append(turns)
        until = time.monotonic() + STRETCH_SECONDS * 1.2
        while time.monotonic() < until:
            pass

    t.enqueue_many({} for _ in range(10))
    drain(app, conn)
    assert len(set(seen)) >= 9  # the second ran already when the count began
