"""Patterns of queues: `tenant-*` serves every queue that matches, also one that appears later, in turns."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import App, db
from pgqueue.errors import InvalidOption, UnknownQueue
from pgqueue.jobs.patterns import Patterns
from pgqueue.queries.jobs.count import QueueCounts
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.claiming.frontier import Frontier
from pgqueue.worker.claiming.queue_finder import MOST_READY
from pgqueue.worker.slots import Slots
from tests.conftest import eventually, scalar
from tests.harness import Conn, claimed

ENDED = "select count(*) from pgqueue.job_finished"


def serve(app: App, conn: Conn, queues: list[str], *stages: Callable[[], object], **settings: Any) -> None:
    """Run a worker; after each stage, wait until no job of a matching queue waits."""

    async def run() -> None:
        worker = Worker(app, WorkerSettings(queues=queues, **settings))
        running = asyncio.create_task(worker.run())
        for stage in stages:
            await eventually(stage, "the worker to do its part")
        worker.stop()
        await running

    asyncio.run(run())


def test_each_star_stands_for_any_characters_and_a_queue_given_by_name_matches_none() -> None:
    patterns = Patterns(["default", "tenant-*", "*.eu"])
    matches = {
        queue: patterns.match(queue) for queue in ("default", "tenant-", "tenant-1", "a.eu", "aXeu", "xtenant-1")
    }
    assert matches == {
        "default": None, "tenant-": "tenant-*", "tenant-1": "tenant-*", "a.eu": "*.eu", "aXeu": None, "xtenant-1": None,
    }  # fmt: skip
    assert not Patterns(["default"])
    assert Patterns(["default", "*"]).match("default") is None


def test_queues_that_match_a_pattern_stand_at_its_place_and_take_turns() -> None:
    slots = Slots(8, ["critical", "t-*", "default"], {"t-*": 2, "t-c": 1})
    assert list(slots.room_by_queue()) == ["critical", "default"]
    slots.serve(["t-a", "t-b", "t-c", "elsewhere", "critical"])
    assert slots.room_by_queue() == {"critical": 8, "t-a": 2, "t-b": 2, "t-c": 1, "default": 8}
    firsts = []
    for _ in range(3):
        firsts.append(slots.queues[1])
        slots.take_turns()
    assert firsts == ["t-a", "t-b", "t-c"]
    slots.serve(["t-b"])
    assert slots.queues == ("critical", "t-b", "default")


def test_a_frontier_forgets_the_lanes_of_queues_that_are_not_served_any_more() -> None:
    frontier = Frontier()
    frontier.advance([claimed(1, 1)])
    frontier.keep(["default"])
    assert list(frontier.places) == [("default", 0)]
    frontier.keep(["other"])
    assert frontier.places == {}


@pytest.mark.parametrize("queue", ["tenant *", "-*", "*" * 101, "t*\n"])
def test_a_pattern_that_no_queue_can_match_is_refused(app: App, queue: str) -> None:
    with pytest.raises(InvalidOption, match="queue pattern"):
        Worker(app, WorkerSettings(queues=[queue]))


def test_a_limit_names_a_queue_that_a_pattern_serves(app: App) -> None:
    Worker(app, WorkerSettings(queues=["tenant-*"], limits={"tenant-1": 2, "tenant-*": 1}))
    with pytest.raises(UnknownQueue, match="other"):
        Worker(app, WorkerSettings(queues=["tenant-*"], limits={"other": 2}))


def test_queues_that_appear_while_a_worker_runs_are_served_and_others_are_not(app: App, conn: Conn) -> None:
    @app.task(name="ping")
    async def ping() -> None: ...

    ping.using(queue="tenant-1").enqueue()
    ping.using(queue="other").enqueue()
    named = "select queues @> '{tenant-*,default,tenant-1,tenant-2}' from pgqueue.worker"

    def first_ended() -> bool:
        ended = bool(scalar(conn, ENDED) == 1)
        if ended:
            ping.using(queue="tenant-2").enqueue()
        return ended

    stages = (first_ended, lambda: scalar(conn, ENDED) == 2, lambda: scalar(conn, named))
    serve(app, conn, ["default", "tenant-*"], *stages, poll_seconds=0.05)
    assert scalar(conn, "select string_agg(queue, ' ') from pgqueue.job_live") == "other"


def test_a_parked_job_in_a_matching_queue_without_other_jobs_is_adopted(app: App, conn: Conn) -> None:
    app.using(queue="tenant-1").enqueue("later")
    parked = "select waits_for = 'task' from pgqueue.job_live"
    serve(app, conn, ["*"], lambda: scalar(conn, parked), poll_seconds=0.05)

    @app.task(name="later")
    async def later() -> None: ...

    serve(app, conn, ["tenant-*"], lambda: scalar(conn, ENDED) == 1, poll_seconds=0.05)


def test_a_notification_that_names_a_new_queue_lets_it_be_found_at_once(app: App, conn: Conn) -> None:
    @app.task(name="ping")
    async def ping() -> None: ...

    ping.using(queue="tenant-0").enqueue()  # when it has run, the next look comes in two minutes

    def notified() -> bool:
        conn.execute("select pg_notify('pgqueue', 'tenant-1')")  # as for another worker, which serves it already
        return bool(scalar(conn, ENDED) == 2)

    def first_ended() -> bool:
        ended = bool(scalar(conn, ENDED) == 1)
        if ended:
            ping.using(queue="tenant-1").enqueue()
        return ended

    serve(app, conn, ["tenant-*"], first_ended, notified, poll_seconds=60)


def test_more_queues_than_a_worker_serves_at_a_time_get_their_turn(app: App, conn: Conn) -> None:
    @app.task(name="ping")
    async def ping() -> None: ...

    many = MOST_READY + 20
    conn.execute(
        "insert into pgqueue.job_live (task, queue, args) select 'ping', 't-' || i, '{}' from generate_series(1, %s) i",
        [many],
    )
    conn.execute(
        "insert into pgqueue.job_live (task, queue, args, run_at)"
        " select 'ping', 't-' || i, '{}', now() + interval '1 hour' from generate_series(1, %s) i",
        [many],
    )
    serve(app, conn, ["t-*"], lambda: scalar(conn, ENDED) == many, poll_seconds=0.05)


def test_a_queue_that_only_a_pattern_serves_is_served_in_status(app: App, conn: Conn) -> None:
    conn.execute(
        "insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds)"
        " values (gen_random_uuid(), 'worker', 'h', 1, '1', '{a_*,b}', '{}', 1, 30)"
    )
    for queue in ("a_1", "aX1", "b"):
        app.using(queue=queue).enqueue("t")
    counts: list[QueueCounts] = db.run(conn, app.queries.jobs.count())
    assert {one.queue: one.workers for one in counts} == {"a_1": 1, "aX1": 0, "b": 1}
