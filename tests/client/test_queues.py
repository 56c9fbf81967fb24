"""Queues are paused, resumed and drained: by whoever may, at once, and by the database's clock."""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, InvalidOption, Task, db
from pgqueue.client import queues
from pgqueue.queries.queues import WorkLeft
from tests.conftest import eventually, scalar, work
from tests.harness import QUERIES, Conn, InThread, add_worker, heard, insert_job, wait_blocked, working

Connect = Callable[..., psycopg.Connection[Any]]
ENDED = "select count(*) from pgqueue.job_finished"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def claims(conn: Conn, *names: str) -> list[int]:
    worker = add_worker(conn)
    rooms = dict.fromkeys(names, 10)
    jobs = [job.id for job in db.run(conn, QUERIES.jobs.claim(worker, rooms, 10))]
    jobs += [
        job.id
        for job in db.run(conn, QUERIES.jobs.claim_beyond(worker, rooms, 10, {(n, 0): (LONG_AGO, 0) for n in names}))
    ]
    return jobs + [job.id for job in db.run(conn, QUERIES.jobs.adopt(worker, rooms, ["t"], 10))]


LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def test_no_claim_takes_jobs_of_a_paused_queue(app: App, conn: Conn) -> None:
    for state in ({}, {"state": "blocked", "waits_for": "task"}):
        insert_job(conn, queue="mail", **state)
    other = insert_job(conn, queue="other")
    assert app.queues.pause("mail", reason="provider is down", by="alice") == ["mail"]
    assert db.run(conn, QUERIES.jobs.next_due(["mail"])).seconds is None
    assert claims(conn, "mail", "other") == [other]
    assert app.queues.resume("mail", by="bob") == ["mail"]
    assert len(claims(conn, "mail")) == 2
    row = conn.execute("select paused_at, paused_by, paused_reason, updated_by from pgqueue.queue").fetchone()
    assert row == (None, None, None, "bob")


@pytest.mark.parametrize("until", [timedelta(hours=1), 3600.0, datetime.now(UTC) + timedelta(hours=1)])
def test_a_pause_ends_by_itself_by_the_clock_of_the_database(app: App, conn: Conn, until: Any) -> None:
    job = insert_job(conn, queue="mail")
    app.queues.pause("mail", until=until)
    assert claims(conn, "mail") == []
    (load,) = app.queues.list("mail")
    assert load.paused_until is not None
    conn.execute("update pgqueue.queue set paused_until = now() - interval '1 s'")
    (load,) = app.queues.list("mail")
    assert load.paused_at is None
    assert db.run(conn, QUERIES.jobs.next_due(["mail"])).seconds is not None
    assert claims(conn, "mail") == [job]
    before = scalar(conn, "select paused_at from pgqueue.queue")
    app.queues.pause("mail")
    assert scalar(conn, "select paused_at from pgqueue.queue") > before  # a new pause, and no longer one


def test_a_worker_claims_again_when_the_end_of_a_pause_has_passed(app: App, conn: Conn, ship: Task[[int], int]) -> None:
    app.queues.pause("default", until=0.5)
    ship.enqueue(1)
    asyncio.run(work(app, lambda: scalar(conn, ENDED) == 1, poll_seconds=0.2))


def test_to_pause_again_changes_the_end_and_keeps_the_beginning(app: App, conn: Conn) -> None:
    app.queues.pause("mail", until=60, reason="a", by="alice")
    since = scalar(conn, "select paused_at from pgqueue.queue")
    app.queues.pause("mail", by="bob")
    row = conn.execute("select paused_at, paused_until, paused_reason, paused_by from pgqueue.queue").fetchone()
    assert row == (since, None, None, "bob")


def test_a_pattern_pauses_what_matches_now(app: App, conn: Conn) -> None:
    for queue in ("tenant-1", "tenant-2", "tenantx", "other"):
        insert_job(conn, queue=queue)
    assert app.queues.pause("tenant-*") == ["tenant-1", "tenant-2"]
    insert_job(conn, queue="tenant-3")
    assert [load.queue for load in app.queues.list() if load.paused_at] == ["tenant-1", "tenant-2"]
    assert app.queues.resume("*") == ["tenant-1", "tenant-2"]
    assert app.queues.pause("none-*") == []


@pytest.mark.parametrize(
    "options",
    [
        {"until": datetime(2020, 1, 1, tzinfo=UTC)}, {"until": datetime(2100, 1, 1)}, {"until": 0}, {"until": -5.0},
        {"until": float("nan")}, {"reason": "x" * 501}, {"reason": "a\nb"}, {"by": ""},
    ],
)  # fmt: skip
def test_what_cannot_be_a_pause_is_refused_and_nothing_is_written(app: App, conn: Conn, options: Any) -> None:
    with pytest.raises(InvalidOption):
        app.queues.pause("mail", **options)
    with pytest.raises(InvalidOption):
        app.queues.pause("no queue", by="a")
    assert scalar(conn, "select count(*) from pgqueue.queue") == 0


def test_a_resume_wakes_an_idle_worker_and_a_pause_needs_no_wake(app: App, conn: Conn, ship: Task[[int], int]) -> None:
    """With a poll interval of a day nothing but the notification can have woken it."""

    async def scenario() -> None:
        app.queues.pause("default")
        async with working(app, poll_seconds=86400.0):
            await eventually(lambda: scalar(conn, "select count(*) = 1 from pgqueue.worker where waiting"))
            await ship.aenqueue(1)
            asleep = "select max(at) < now() - interval '0.5 s' from pgqueue.transition"
            await eventually(lambda: scalar(conn, asleep))
            assert scalar(conn, ENDED) == 0
            await app.queues.aresume("default")
            await eventually(lambda: scalar(conn, ENDED) == 1)

    asyncio.run(scenario())


def test_only_what_was_paused_notifies(app: App, conn: Conn, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("listen pgqueue")
        app.queues.pause("a")
        app.queues.resume("a")
        app.queues.resume("b")
        assert heard(listener, conn) == ["a"]


def test_a_claim_under_way_goes_on_and_the_next_one_sees_the_pause(conn: Conn, connect: Connect) -> None:
    """A claim locks no row of a queue, so a pause waits for none; what begins after its commit sees it."""
    jobs = [insert_job(conn, queue="mail") for _ in range(3)]
    claiming, pausing = connect(), connect()
    worker = add_worker(conn)
    first = db.run(claiming, QUERIES.jobs.claim(worker, {"mail": 1}, 1))
    db.run(pausing, QUERIES.queues.pause(["mail"], None, None, None, "alice"))  # while the claim is not committed
    second = db.run(conn, QUERIES.jobs.claim(worker, {"mail": 1}, 1))  # the pause is not committed yet
    pausing.commit()
    assert db.run(conn, QUERIES.jobs.claim(worker, {"mail": 1}, 1)) == []
    claiming.commit()
    assert [job.id for job in (*first, *second)] == jobs[:2]


def test_two_who_pause_the_same_queues_wait_for_each_other_and_never_in_a_circle(conn: Conn, connect: Connect) -> None:
    a, b = connect(), connect()
    db.run(a, QUERIES.queues.pause(["x", "y"], None, None, None, "alice"))
    other = InThread(lambda: db.run(b, QUERIES.queues.pause(["y", "x"], None, 60.0, None, "bob")))
    wait_blocked(conn, b, a)
    a.commit()
    assert sorted(other.result()) == ["x", "y"]
    b.commit()
    assert scalar(conn, "select array_agg(distinct paused_by) from pgqueue.queue") == ["bob"]


def test_a_resume_and_a_pause_at_once_leave_what_committed_last(conn: Conn, connect: Connect) -> None:
    db.run(conn, QUERIES.queues.pause(["x"], None, None, None, "alice"))
    a, b = connect(), connect()
    db.run(a, QUERIES.queues.pause(["x"], None, None, "still", "alice"))
    resuming = InThread(lambda: db.run(b, QUERIES.queues.resume(["x"], "bob")))
    wait_blocked(conn, b, a)
    a.commit()
    assert resuming.result() == ["x"]
    b.commit()
    assert scalar(conn, "select paused_at from pgqueue.queue") is None


def test_a_queue_is_drained_when_nothing_is_due_and_nothing_runs(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(queues, "EMPTY_SECONDS", 0.05)
    worker = add_worker(conn)
    due = insert_job(conn, queue="mail")
    runs = insert_job(
        conn, queue="mail", state="running", attempt=1, lease=1, worker_id=worker, claimed_at=datetime.now(UTC)
    )
    insert_job(conn, queue="mail", run_at=datetime.now(UTC) + timedelta(days=1))
    insert_job(conn, queue="other")
    seen: list[WorkLeft] = []
    assert not app.queues.drain("mail", timeout=0.1, on_look=seen.append)
    assert set(seen) == {WorkLeft(1, 1)}
    assert not app.queues.drain("mail", only_running=True, timeout=0.1)
    conn.execute("delete from pgqueue.job_live where id = %s", (runs,))
    assert app.queues.drain("mail", only_running=True, timeout=30)
    assert not app.queues.drain("mail", timeout=0.1)
    looked = threading.Event()
    draining = InThread(lambda: app.queues.drain("mail", on_look=lambda _: looked.set()))
    assert looked.wait(30)
    conn.execute("delete from pgqueue.job_live where id = %s", (due,))
    assert draining.result() is True
    assert asyncio.run(app.queues.adrain("mail", timeout=30)) is True


def test_a_queue_that_was_empty_for_a_moment_is_not_drained_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that was under way at the pause shows only when it commits."""
    now = 0.0
    monkeypatch.setattr(queues, "monotonic", lambda: now)
    drain = queues.Drain(only_running=True, timeout=None, on_look=None)
    looks = [(WorkLeft(5, 0), 0.0), (WorkLeft(5, 1), 0.5), (WorkLeft(5, 0), 1.0), (WorkLeft(5, 0), 1.5)]
    for left, at in looks:
        now = at
        assert not drain.is_over(left)
    now = 2.0
    assert drain.is_over(WorkLeft(5, 0))
