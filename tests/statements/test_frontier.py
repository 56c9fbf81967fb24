"""Claims begin where the last one ended: dead rows cost nothing, and jobs before that place are found too."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from pgqueue import App, db
from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.jobs.claim import Lane, Place
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.claiming.frontier import SCAN_SHARE, Frontier
from pgqueue.worker.claiming.full_scan import FullScan
from pgqueue.worker.core import Served, WorkerCore
from pgqueue.worker.signals import WorkerSignals
from pgqueue.worker.slots import Slots
from tests.conftest import eventually, scalar
from tests.harness import QUERIES, WORKER, Conn, claimed, insert_job
from tests.statements.test_explain import buffers, explain, job_scans

ROOMS = {"default": 10}


def place(job: ClaimedJob) -> dict[Lane, Place]:
    """Return the frontier after a job."""
    return {(job.queue, job.priority): (job.run_at, job.id)}


def beyond(conn: Conn, frontier: dict[Lane, Place], rooms: dict[str, int] = ROOMS, room: int = 10) -> list[ClaimedJob]:
    return db.run(conn, QUERIES.jobs.claim_beyond(WORKER, rooms, room, frontier))


def jobs(conn: Conn, count: int, ago: int = 0, **columns: Any) -> list[int]:
    """Insert jobs that are due; return their ids."""
    run_at = scalar(conn, f"select now() - interval '{1000 + ago} seconds'")
    return [insert_job(conn, run_at=run_at, **columns) for _ in range(count)]


def test_it_claims_what_comes_after_its_place_in_each_lane_it_knows(conn: Conn) -> None:
    first = jobs(conn, 2)
    (one, two) = db.run(conn, QUERIES.jobs.claim(WORKER, ROOMS, 2))
    assert [one.id, two.id] == first
    before, later = jobs(conn, 1, ago=500), jobs(conn, 3)
    jobs(conn, 1, priority=5)
    assert [job.id for job in beyond(conn, place(two))] == later
    assert {job.id for job in db.run(conn, QUERIES.jobs.claim(WORKER, ROOMS, 9))} > set(before)


def test_lanes_of_a_queue_share_its_room_and_come_by_priority(conn: Conn) -> None:
    start = scalar(conn, "select now() - interval '1 day'")
    frontier: dict[Lane, Place] = {(q, p): (start, 0) for q in ("a", "b") for p in (0, 7)}
    for queue, priority in frontier:
        jobs(conn, 4, queue=queue, priority=priority)
    taken = beyond(conn, frontier, {"b": 6, "a": 3}, 8)
    assert [(job.queue, job.priority) for job in taken] == [("b", 7)] * 4 + [("b", 0)] * 2 + [("a", 7)] * 2


def test_a_paused_queue_and_a_job_of_the_future_give_nothing(conn: Conn) -> None:
    start = scalar(conn, "select now() - interval '1 day'")
    jobs(conn, 2, queue="a")
    jobs(conn, 2, ago=-5000, queue="b")
    conn.execute("insert into pgqueue.queue (name, paused_at) values ('a', now())")
    assert beyond(conn, {("a", 0): (start, 0), ("b", 0): (start, 0)}, {"a": 5, "b": 5}) == []


@pytest.fixture(params=["reader", "writer"])
def pinned(dsn: str, conn: Conn, request: pytest.FixtureRequest) -> Iterator[Conn]:
    """A queue whose 30,000 finished jobs cannot be vacuumed, because a transaction is open."""
    with psycopg.connect(dsn) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("select 1" if request.param == "reader" else "create table public.theirs ()")
        conn.execute(
            "insert into pgqueue.job_live (task, queue, run_at)"
            " select 't', 'default', now() - interval '1 hour' + i * interval '1 millisecond'"
            " from generate_series(1, 30100) as i"
        )
        conn.execute("delete from pgqueue.job_live where id <= 30000")
        conn.execute("vacuum analyze pgqueue.job_live")
        yield conn


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_dead_rows_before_the_frontier_are_not_walked_over(dsn: str, pinned: Conn, generic: bool) -> None:
    (last,) = db.run(pinned, QUERIES.jobs.claim(WORKER, {"default": 1}, 1))
    with psycopg.connect(dsn) as own:
        plan = explain(own, QUERIES.jobs.claim_beyond(WORKER, ROOMS, 10, place(last)), generic=generic)
        assert plan["Actual Rows"] == 10
        assert job_scans(plan) == {"job_live_ready", "job_live_pkey"}
        assert buffers(plan) < 250
        own.rollback()
        own.execute("deallocate explained")
        # The frontier saves these pages.
        assert buffers(explain(own, QUERIES.jobs.claim(WORKER, ROOMS, 10), generic=generic)) > 1000


@pytest.mark.parametrize("long", [60.0, -1.0], ids=["by claims", "by the full scan"])
def test_jobs_before_the_frontier_and_in_new_lanes_are_run_too(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch, long: float
) -> None:
    """Jobs committed late, or in a lane that had none before: each of them runs."""
    monkeypatch.setattr("pgqueue.worker.claiming.frontier.COSTLY_SECONDS", long)
    ran: list[str] = []

    @app.task(name="t")
    async def t(name: str) -> None:
        ran.append(name)

    async def run() -> None:
        worker = Worker(app, WorkerSettings(concurrency=4))
        with psycopg.connect(dsn) as open_for_long:
            t.using(open_for_long).enqueue("late")
            t.enqueue_many({"name": f"n{n}"} for n in range(3000))
            running = asyncio.create_task(worker.run())
            await eventually(lambda: len(ran) > 2000, "a good part to run")
            open_for_long.commit()
        t.using(priority=9).enqueue("new lane")
        await eventually(lambda: len(ran) == 3002, "every job to run")
        worker.stop()
        await running

    asyncio.run(run())
    assert {"late", "new lane"} <= set(ran)


def test_a_job_in_a_new_lane_needs_no_full_scan(app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a full scan takes long, and the next one is due after twenty times as long; here never."""
    monkeypatch.setattr("pgqueue.worker.claiming.frontier.SCAN_SHARE", 1e9)
    ran: list[str] = []

    @app.task(name="t")
    async def t(name: str) -> None:
        ran.append(name)

    async def run() -> None:
        worker = Worker(app, WorkerSettings(queues=["default", "other"], poll_seconds=0.05))
        t.enqueue("first")
        running = asyncio.create_task(worker.run())
        await eventually(lambda: ran == ["first"], "the full scan at the start")
        await eventually(lambda: scalar(conn, "select bool_and(waiting) from pgqueue.worker"), "the worker rests")
        t.using(priority=9).enqueue("priority")
        t.using(queue="other").enqueue("queue")
        await eventually(lambda: len(ran) == 3, "jobs of new lanes to run")
        worker.stop()
        await running

    asyncio.run(run())


def test_the_question_for_the_next_due_job_tells_the_lanes_that_have_one(conn: Conn) -> None:
    due = jobs(conn, 1)[0]
    jobs(conn, 1, priority=5)
    jobs(conn, 1, ago=-5000, priority=7)
    jobs(conn, 1, queue="paused")
    jobs(conn, 1, queue="old", expires_at=scalar(conn, "select now() - interval '1 s'"))
    conn.execute("insert into pgqueue.queue (name, paused_at) values ('paused', now())")
    found = db.run(conn, QUERIES.jobs.next_due(["default", "paused", "old", "none"]))
    assert set(found.lanes) == {("default", 0), ("default", 5)}
    assert found.lanes["default", 0] == scalar(conn, "select run_at from pgqueue.job_live where id = %s", due)
    assert db.run(conn, QUERIES.jobs.next_due([])).lanes == {}
    frontier = Frontier(Clock())
    assert frontier.meet(found.lanes)
    assert not frontier.meet(found.lanes)
    assert {job.queue for job in beyond(conn, frontier.places)} == {"default"}
    assert len(beyond(conn, frontier.places)) == 0


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def scan(frontier: Frontier, clock: Clock, *, saw_all: bool) -> None:
    """Make a full scan, for half a second."""
    with frontier.scanning() as scan:
        clock.now += 0.5
        scan.saw_all = saw_all


def test_a_full_scan_that_fails_has_seen_nothing_and_has_cost_its_time() -> None:
    clock = Clock()
    frontier = Frontier(clock)
    with suppress(OSError), frontier.scanning():
        clock.now += 10
        raise OSError("cut")
    assert frontier.scan_is_costly
    assert not frontier.scan_due()
    assert frontier.scan_due(short=True)


def test_full_scans_take_one_part_in_twenty_of_the_time_at_most() -> None:
    clock = Clock()
    frontier = Frontier(clock)
    assert frontier.scan_due()
    scan(frontier, clock, saw_all=True)
    for _ in range(SCAN_SHARE):
        assert not frontier.scan_due(short=True)
        clock.now += 0.5
    assert frontier.scan_due()


def test_a_full_scan_that_fails_after_cheap_ones_counts_in_full() -> None:
    clock = Clock()
    frontier = Frontier(clock)
    with frontier.scanning():
        clock.now += 0.01
    with suppress(OSError), frontier.scanning():
        clock.now += 10
        raise OSError("cut")
    assert frontier.scan_is_costly


def test_a_full_scan_that_the_machine_held_up_says_little_of_the_next() -> None:
    clock = Clock()
    frontier = Frontier(clock)
    for seconds in (0.01, 30.0):
        with frontier.scanning() as held:
            clock.now += seconds
            held.saw_all = True
    assert not frontier.scan_is_costly
    clock.now += 0.011 * SCAN_SHARE
    assert frontier.scan_due()


def test_a_full_scan_that_left_jobs_behind_is_due_again_as_soon_as_its_lanes_run_dry() -> None:
    clock = Clock()
    frontier = Frontier(clock)
    scan(frontier, clock, saw_all=False)
    assert not frontier.scan_due()
    assert frontier.scan_due(short=True)


def test_an_idle_worker_scans_again_only_if_it_has_relied_on_its_frontier() -> None:
    clock = Clock()
    frontier = Frontier(clock)
    scan(frontier, clock, saw_all=True)
    assert frontier.scan_in == math.inf
    frontier.rely()
    assert frontier.scan_in == pytest.approx(0.5 * SCAN_SHARE)
    clock.now += 60
    assert frontier.scan_in == 0
    frontier.request_scan()
    assert frontier.scan_due()


def test_the_place_in_a_lane_is_that_of_the_last_job_claimed() -> None:
    frontier = Frontier(Clock())
    first, second = claimed(1, 1), claimed(2, 1)
    frontier.advance([first, second])
    assert frontier.places == place(second)


def test_a_job_that_is_put_back_is_seen_again() -> None:
    frontier = Frontier(Clock())
    jobs = [claimed(n, 1) for n in range(1, 5)]
    frontier.advance(jobs)
    frontier.retreat(jobs[1])
    frontier.retreat(jobs[2])
    ((run_at, after),) = frontier.places.values()
    assert (run_at, after) < (jobs[1].run_at, jobs[1].id)
    assert (run_at, after) >= (jobs[0].run_at, jobs[0].id)


def test_what_a_full_scan_may_claim_is_set_aside_meanwhile() -> None:
    slots = Slots(10, ["default", "other"], {"other": 3})
    rooms = slots.reserve(4)
    assert (rooms, slots.room(), slots.room_by_queue()) == ({"default": 4, "other": 3}, 6, {"default": 6})
    slots.unreserve(rooms)
    assert (rooms, slots.room(), slots.room_by_queue()) == ({}, 10, {"default": 10, "other": 3})
    for job in range(10):
        slots.add_waiting(claimed(job, 1))
    assert slots.reserve(4) == {}


def test_a_full_scan_may_take_longer_than_other_statements_of_a_worker(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends what runs on a link after its deadline; a full scan has a longer one."""
    monkeypatch.setattr("pgqueue.db.link.DEADLINE", 0.7)
    slots = Slots(1, ["default"], {})
    core = WorkerCore.of(app, WorkerSettings(), Served(("default",), ()), slots)
    app.enqueue("t")
    db.run(conn, app.queries.workers.register(core.identity.info))
    claimed_ids: list[int] = []
    signals = WorkerSignals(jobs_claimed=lambda jobs: claimed_ids.extend(job.id for job in jobs))
    conn.execute("create function public.slow() returns trigger language plpgsql as"
                 " 'begin perform pg_sleep(0.5); return new; end'")  # fmt: skip
    conn.execute("create trigger slow before update on pgqueue.job_live for each row execute function public.slow()")

    async def run() -> None:
        link = Link(app.database, "full scan")
        full_scan = FullScan(link, core, signals, Frontier())
        full_scan.request()
        await full_scan.step()
        await link.close()

    asyncio.run(run())
    assert len(claimed_ids) == 1
