"""Claiming ahead of free slots: at the recent pace, bounded by time, and released if it was too much."""

import asyncio
from dataclasses import replace

import pytest

from pgqueue import App
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.slots import Slots
from tests.conftest import eventually, scalar
from tests.harness import Conn, claimed


def test_what_waits_longer_than_a_fifth_of_a_second_is_given_back_and_not_charged(
    app: App, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    """Fast jobs set a pace; then slow ones come, and the jobs claimed ahead go to an idle worker."""
    stuck = asyncio.Event()
    caplog.set_level("INFO", "pgqueue")

    @app.task(name="fast")
    async def fast() -> None: ...

    @app.task(name="slow")
    async def slow() -> None:
        await stuck.wait()

    fast.enqueue_many({} for _ in range(2000))
    slow.enqueue_many({} for _ in range(500))
    ahead = "select count(*) > 0 from pgqueue.transition where reason = 'released'"
    settled = f"select count(*) = 2 from pgqueue.job_live where state = 'running' and ({ahead})"

    async def run() -> None:
        worker = Worker(app, WorkerSettings(concurrency=2))
        running = asyncio.create_task(worker.run())
        await eventually(lambda: scalar(conn, settled), "the surplus to be given back")
        worker.stop()  # first: a slot that is free for a moment would claim what was given back
        stuck.set()
        await running

    asyncio.run(run())
    assert scalar(conn, "select count(*) from pgqueue.job_finished where task = 'fast' and attempt = 1") == 2000
    assert scalar(conn, "select max(attempt) from pgqueue.job_live") == 0
    assert scalar(conn, "select max(lease) from pgqueue.job_live") <= 2  # it claims no released job ahead again
    assert scalar(conn, "select count(*) from pgqueue.job_live where crash_count > 0") == 0
    given_back = scalar(conn, "select count(*) from pgqueue.transition where reason = 'released'")
    lines = [record for record in caplog.records if "released" in record.message]
    assert given_back > 20 > len(lines) > 0  # one for all that are given back together


def test_a_job_that_waits_for_a_slot_takes_up_room_and_can_be_dropped() -> None:
    slots = Slots(1, ["default"], {})
    first, second = claimed(1, 1), claimed(2, 1)
    slots.ahead = 1
    assert slots.room() == 2
    slots.add_waiting(first)
    slots.add_waiting(second)
    assert slots.begin_next() is not None
    assert slots.begin_next() is None
    assert (slots.room(), slots.waiting) == (0, [second])
    slots.drop_waiting([second])
    assert slots.waiting == []
    assert slots.room() == 1


@pytest.mark.parametrize(("running", "waiting", "room"), [(0, 0, 2), (1, 0, 1), (1, 1, 0), (0, 2, 0)])
def test_a_queue_with_a_limit_is_never_claimed_ahead_of_it(running: int, waiting: int, room: int) -> None:
    slots = Slots(8, ["default", "other"], {"default": 2})
    slots.ahead = 100
    for job in range(running + waiting):
        slots.add_waiting(claimed(job, 1))
        if job < running:
            slots.begin_next()
    assert slots.room_by_queue().get("default", 0) == room
    assert slots.room_by_queue()["other"] == 108 - running - waiting


def test_fewer_jobs_are_claimed_ahead_where_their_arguments_are_large(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three thousand jobs of a megabyte were claimed ahead, and the worker grew to 1.5 GiB."""
    monkeypatch.setattr("pgqueue.worker.slots.AHEAD_BYTES", 100_000)
    ahead: list[int] = []

    @app.task
    async def large(text: str) -> None:
        ahead.append(sum(len(job.args) for job in worker._slots.waiting))

    large.enqueue_many({"text": "x" * 10_000} for _ in range(1000))

    async def run() -> None:
        running = asyncio.create_task(worker.run())
        await eventually(lambda: len(ahead) == 1000)
        worker.stop()
        await running

    worker = Worker(app, WorkerSettings(concurrency=2))
    asyncio.run(run())
    assert 10_000 < max(ahead) <= 100_000 + 2 * 10_020


def test_the_size_of_jobs_bounds_what_is_claimed_ahead_until_small_ones_come() -> None:
    slots, large = Slots(1, ["default"], {}), replace(claimed(1, 1), args="x" * 2**20)
    slots.claim_ahead(2000)
    assert slots.ahead == 2000
    slots.note_sizes([large])
    assert slots.ahead == 16  # at once
    slots.claim_ahead(2000)
    assert slots.ahead == 16
    for _ in range(100):
        slots.note_sizes([claimed(2, 1)] * 10)
    slots.claim_ahead(2000)
    assert slots.ahead == 2000


def test_of_queues_that_come_and_go_no_trace_stays() -> None:
    slots = Slots(1, ["default"], {})
    for n in range(3):
        slots.add_waiting(replace(claimed(n, 1), queue=f"tenant-{n}"))
        running = slots.begin_next()
        assert running is not None
        slots.free(running)
    assert not slots._held
