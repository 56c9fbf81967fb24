"""Asking processes for a sign of life: who lives answers at once, who does not is silent."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import App, InvalidOption, UnknownWorker
from pgqueue.client.workers import Pong
from pgqueue.scheduler import Scheduler
from pgqueue.worker import Worker, WorkerSettings
from tests.conftest import eventually, scalar
from tests.harness import Conn, add_worker


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


async def beside(app: App, process: Worker | Scheduler, conn: Conn, ask: Callable[[], Any]) -> Any:
    """Run a process; ask in a thread once it listens."""
    running = asyncio.create_task(process.run())
    try:
        await process.started.wait()
        listens = "select count(*) > 0 from pg_stat_activity where application_name like 'pgqueue%listen%'"
        await eventually(lambda: scalar(conn, listens + " and query ilike 'listen%'"), "a listener")
        return await asyncio.to_thread(ask)
    finally:
        process.stop()
        await running


def test_a_living_worker_answers_long_before_its_next_heartbeat(app: App, conn: Conn) -> None:
    worker = Worker(app, WorkerSettings(lease_seconds=600))  # a heartbeat each 150 s
    pongs: list[Pong] = asyncio.run(beside(app, worker, conn, lambda: app.workers.ping(timeout=20)))
    (pong,) = pongs
    assert pong.seconds is not None
    assert pong.seconds < 20
    assert pong.worker.kind == "worker"


def test_a_scheduler_answers_too_and_a_dead_process_is_silent(app: App, conn: Conn) -> None:
    add_worker(conn)
    pongs = asyncio.run(beside(app, Scheduler(app), conn, lambda: app.workers.ping(timeout=1)))
    assert {pong.worker.kind: pong.seconds is not None for pong in pongs} == {"scheduler": True, "worker": False}


def test_without_an_answer_it_takes_the_timeout_and_no_longer(app: App, conn: Conn) -> None:
    worker = add_worker(conn)
    add_worker(conn, lost=True)
    assert [(pong.worker.id, pong.seconds) for pong in app.workers.ping(timeout=0.1)] == [(worker, None)]
    assert [pong.seconds for pong in asyncio.run(_aping(app, str(worker)))] == [None]
    with pytest.raises(UnknownWorker):
        app.workers.ping("nobody")
    with pytest.raises(InvalidOption):
        app.workers.ping(timeout=-1)


async def _aping(app: App, which: str) -> list[Pong]:
    try:
        return await app.workers.aping(which, timeout=0.1)
    finally:
        await app.backend.pools.aclose()


def test_nobody_is_asked_where_nobody_lives(app: App) -> None:
    assert app.workers.ping(timeout=10) == []


def test_the_tasks_of_living_workers_are_known(app: App, conn: Conn) -> None:
    worker = add_worker(conn)
    add_worker(conn, lost=True)
    assert app.workers.tasks() == {worker: ["t"]}
