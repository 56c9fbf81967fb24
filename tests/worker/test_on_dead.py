"""`@app.on_dead`: code that hears of each dead letter, in the worker that wrote it."""

import asyncio
import logging

import pytest

from pgqueue import App, DeadFilter, Fail, InvalidOption, db, events
from pgqueue.jobs.fingerprint import of_crash
from tests.conftest import drain, scalar, work
from tests.harness import QUERIES, WORKER, Conn
from tests.worker.test_crashes import crash


@pytest.fixture
def failing(app: App) -> App:
    """An app whose tasks fail for good at once."""

    async def fail(n: int = 0) -> None:
        raise Fail("no such customer") if n else LookupError("customer 7")

    for name in ("shop.send", "shop.refund", "mail"):
        app.task(name=name, no_retry_on=LookupError)(fail)
    return app


def test_a_listener_hears_of_the_job_the_reason_and_the_class_of_the_error(failing: App, conn: Conn) -> None:
    heard: list[events.JobDeadLettered] = []
    failing.on_dead(heard.append)
    job = failing.enqueue("mail")
    drain(failing, conn)
    (event,) = heard
    assert (event.job_id, event.task, event.queue, event.attempt) == (job.id, "mail", "default", 1)
    assert (event.reason, event.error_class) == ("not retried", "LookupError")
    assert event.error is not None
    assert event.error.message == "customer 7"
    assert event.fingerprint == scalar(conn, "select fingerprint from pgqueue.dead_letter")


def test_a_listener_hears_only_of_the_tasks_that_fit_its_pattern(failing: App, conn: Conn) -> None:
    shop: list[str] = []
    refunds: list[str] = []

    @failing.on_dead(task="shop.*")
    def of_shop(event: events.JobDeadLettered) -> None:
        shop.append(event.task)

    @failing.on_dead(task="shop.refund")
    async def of_refunds(event: events.JobDeadLettered) -> None:
        await asyncio.sleep(0)
        refunds.append(event.task)

    for task in ("shop.send", "mail", "shop.refund"):
        failing.enqueue(task, {"n": 1})
    drain(failing, conn)
    assert (sorted(shop), refunds) == (["shop.refund", "shop.send"], ["shop.refund"])


def test_errors_of_listeners_are_logged_and_end_nothing(
    failing: App, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    @failing.on_dead
    def broken(event: events.JobDeadLettered) -> None:
        raise RuntimeError("pager")

    @failing.on_dead
    async def broken_later(event: events.JobDeadLettered) -> None:
        raise OSError("mail")

    jobs = [failing.enqueue("mail").id for _ in range(2)]
    with caplog.at_level(logging.ERROR, "pgqueue.events"):
        drain(failing, conn)
    assert sorted(r[0] for r in conn.execute("select id from pgqueue.dead_letter").fetchall()) == jobs
    said = sorted(record.getMessage() for record in caplog.records if record.name == "pgqueue.events")
    assert (
        said
        == ["a listener to JobDeadLettered raised OSError"] * 2
        + ["a listener to JobDeadLettered raised RuntimeError"] * 2
    )


def test_a_job_whose_workers_died_is_heard_of_by_the_one_that_rescues_it(app: App, conn: Conn) -> None:
    heard: list[events.Event] = []
    app.on_dead(heard.append)
    app.on(events.JobRescued)(heard.append)
    job = crash(conn, task="of another app", headers='{"$max_crashes": 1}')
    asyncio.run(work(app, lambda: len(heard) == 2))
    rescued, dead = heard
    assert rescued == events.JobRescued(job, "failed")
    assert isinstance(dead, events.JobDeadLettered)
    assert (dead.job_id, dead.task, dead.attempt, dead.lease) == (job, "of another app", 1, 1)
    assert (dead.reason, dead.error_class) == ("crashed", "pgqueue.WorkerLost")
    assert dead.worker_id == scalar(conn, "select worker_id from pgqueue.dead_letter")
    assert dead.fingerprint == of_crash("of another app") == scalar(conn, "select fingerprint from pgqueue.dead_group")


def test_crashed_jobs_are_grouped_by_their_task(app: App, conn: Conn) -> None:
    for task in ("a", "a", "b"):
        crash(conn, task=task, headers='{"$max_crashes": 1}')
    db.run(conn, QUERIES.jobs.rescue(WORKER))
    assert {(group.fingerprint, group.jobs) for group in app.dead.groups()} == {("crashed a", 2), ("crashed b", 1)}
    assert [dead.task for dead in app.dead.preview(DeadFilter(group="crashed a"))] == ["a", "a"]


@pytest.mark.parametrize("task", ["", 7, None])
def test_a_pattern_of_tasks_is_a_text(app: App, task: object) -> None:
    with pytest.raises(InvalidOption, match=r"task=.* cannot be used"):
        app.on_dead(task=task)  # type: ignore[call-overload]


def test_a_pattern_without_its_name_is_refused(app: App) -> None:
    with pytest.raises(InvalidOption, match=r"say task="):
        app.on_dead("shop.*")  # type: ignore[call-overload]
