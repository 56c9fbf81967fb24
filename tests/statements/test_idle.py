"""The statements of a process while there is nothing to do: which, and how many."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import App, db
from pgqueue.db import link
from pgqueue.queries import Query
from pgqueue.scheduler import Scheduler, SchedulerSettings
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.claiming import frontier, producer
from tests.conftest import eventually, work
from tests.harness import Conn
from tests.statements.test_flat import FLAT
from tests.statements.test_queries import SAMPLES

POLL = 0.1
# Run at each poll, and at each fifth. All others run once a lease (30 s) or less often.
PER_POLL, PER_FIVE = {"jobs.next_due"}, {"jobs.parked_labels"}
CLAIMS = {"jobs.claim", "jobs.claim_beyond"}
STARTING = {
    "workers.register", "schema.check", "jobs.release_strays", "workers.set_waiting", "workers.unregister",
    "workers.set_stopping", "schedules.declare", "schedules.clock",
}  # fmt: skip
RELEASING = {
    "schedules.register_release", "schedules.unregister_release", "schedules.is_newest_release",
    "schedules.disable_dropped", "schedules.find_changed", "schedules.lock_stale_previews", "schedules.count_declared",
}  # fmt: skip
SELDOM = {
    "workers.heartbeat", "jobs.cancel_requests", "jobs.rescue", "workers.declare_lost", "workers.delete_lost",
    "partitions.delegated", "partitions.make", "partitions.states", "jobs.expire",
    "jobs.prune_keys", "activity.record", "operations.find_abandoned", "pauses.tasks", "waits.announce_missed",
    "jobs.drop_expired_results", "workflows.look", "workflows.doom_stuck", "workflows.end_hollow",
    "workflows.tell_gone", "signals.deliver", "steps.sweep",
    "retention.take_turn", "retention.allowed", "retention.old_partitions", "retention.sweeps", "retention.prune_dead",
    "retention.prune_ticks", "retention.prune_operations", "retention.forget",
}  # fmt: skip
SETTING = {"select pg_catalog.set_config('statement_timeout', %(timeout)s, true)"}  # before a long statement
SCHEDULER_POLLS = {"schedules.lock_due", "schedules.next_due"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, app: App) -> Counter[str]:
    """Return how often each statement ran, by its name; statements without a name by their text."""
    names = {make(app.queries).sql: name for name, make in SAMPLES.items()}
    names |= {query.sql: name for name, query in FLAT.items()}
    counts: Counter[str] = Counter()
    run, run_async = db.run, db.run_async

    def note(query: Query[Any]) -> None:
        counts[names.get(query.sql, query.sql.decode())] += 1

    def running(conn: Any, query: Query[Any]) -> Any:
        note(query)
        return run(conn, query)

    async def running_async(conn: Any, query: Query[Any]) -> Any:
        note(query)
        return await run_async(conn, query)

    monkeypatch.setattr(db, "run", running)
    for module in (db, link):
        monkeypatch.setattr(module, "run_async", running_async)
    return counts


def polled(counts: Counter[str], times: int) -> Callable[[], bool]:
    """Whether a process has polled that often."""
    return lambda: counts["jobs.next_due"] >= times or counts["schedules.next_due"] >= times


def test_an_idle_worker_asks_one_cheap_thing_a_poll_and_the_rest_seldom(
    app: App, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (producer, frontier):  # it asks at each poll and scans at once, however slow a busy machine is
        monkeypatch.setattr(module, "SCAN_SHARE", 0.0)
    asyncio.run(work(app, polled(asked, 20), poll_seconds=POLL))
    polls = asked["jobs.next_due"]
    assert set(asked) <= PER_POLL | PER_FIVE | CLAIMS | STARTING | SELDOM | SETTING
    assert asked["jobs.parked_labels"] <= polls / 5 + 3
    seldom = asked.keys() - PER_POLL - PER_FIVE
    assert {name: asked[name] for name in seldom if asked[name] > 3} == {}


def test_a_worker_asks_once_after_a_notification_that_brings_no_job_and_not_after_one_that_does(
    app: App, conn: Conn, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "SCAN_SHARE", 0.0)
    ran: list[int] = []
    task = app.task(name="t")(lambda n: ran.append(n))
    task.enqueue(1)

    async def stages() -> None:
        worker = Worker(app, WorkerSettings(poll_seconds=3600.0))
        running = asyncio.create_task(worker.run())
        await eventually(lambda: ran and asked["jobs.next_due"] == 1, "the worker to rest, which knows the lane")
        for asks in (2, 3, 4):
            conn.execute("select pg_catalog.pg_notify('pgqueue', 'default')")
            await eventually(lambda: asked["jobs.next_due"] == asks, "the question")  # noqa: B023
            task.using(conn).enqueue(asks)
            await eventually(lambda: asks in ran, "the job to run")  # noqa: B023
            assert asked["jobs.next_due"] == asks
        worker.stop()
        await running

    asyncio.run(stages())


def test_an_idle_scheduler_asks_two_cheap_things_a_poll_and_the_rest_seldom(app: App, asked: Counter[str]) -> None:
    async def run() -> None:
        scheduler = Scheduler(app, SchedulerSettings(poll_seconds=POLL))
        running = asyncio.create_task(scheduler.run())
        await eventually(polled(asked, 20))
        scheduler.stop()
        await running

    asyncio.run(run())
    polls = asked["schedules.next_due"]
    assert set(asked) <= SCHEDULER_POLLS | STARTING | RELEASING | SELDOM | SETTING
    assert asked["schedules.lock_due"] <= polls + 3
    assert {name: count for name, count in asked.items() if name not in SCHEDULER_POLLS and count > 3} == {}


def test_what_is_asked_of_itself_is_known_to_be_flat() -> None:
    apart = {"partitions.delegated", "partitions.make", "partitions.states", "activity.record"}  # test_flat says why
    apart |= {f"retention.{name}" for name in ("take_turn", "allowed", "old_partitions", "sweeps", "forget")}
    apart.add("retention.prune_operations")
    known = FLAT.keys() | apart | {"schedules.register_release", "schedules.unregister_release"}
    assert known >= PER_POLL | PER_FIVE | CLAIMS | STARTING | RELEASING | SELDOM | SCHEDULER_POLLS
