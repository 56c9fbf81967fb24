"""A queue with a max_depth refuses more jobs: exactly if it is small, nearly if it is deep. Others pay nothing."""

from typing import Any

import psycopg
import pytest

from pgqueue import App, InvalidOption, QueueFull, db
from tests.callers import Caller, on
from tests.conftest import scalar
from tests.harness import QUERIES, WORKER, Conn

JOBS = "select count(*) from pgqueue.job"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def bounded(dsn: str) -> Any:
    app = App(dsn, max_depth={"bulk": 5})
    yield app
    app.close()


@pytest.mark.parametrize("kind", ["own", "own async", "psycopg", "psycopg async", "sqlalchemy Session", "AsyncSession"])
def test_a_full_queue_refuses_and_the_transaction_stays_usable(kind: str, dsn: str, bounded: App, conn: Conn) -> None:
    task = bounded.task(name="t", queue="bulk")(lambda n: None)

    async def body(caller: Caller) -> None:
        await caller.enqueue_many(task.using(caller.conn), [{"n": n} for n in range(4)])
        with pytest.raises(QueueFull, match="queue bulk is full: about 4 jobs wait there, and max_depth is 5"):
            await caller.enqueue_many(task.using(caller.conn), [{"n": n} for n in range(2)])
        await caller.enqueue(task.using(caller.conn), 5)
        for keyed in ({}, {"idempotency_key": "k"}):
            with pytest.raises(QueueFull) as caught:
                await caller.enqueue(task.using(caller.conn, **keyed), 6)
        assert (caught.value.queue, caught.value.depth, caught.value.max_depth) == ("bulk", 5, 5)
        await caller.enqueue(task.using(caller.conn, queue="other"), 7)
        if not kind.startswith("own"):
            await caller.commit()
        assert scalar(conn, JOBS) == 6

    on(kind, dsn, bounded, body)


def test_a_queue_that_was_full_takes_jobs_again(bounded: App, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    put = bounded.using(queue="bulk").enqueue
    for _ in range(5):
        put("t")
    with pytest.raises(QueueFull):
        put("t")
    db.run(conn, QUERIES.jobs.claim(WORKER, {"bulk": 2}, 2))
    monkeypatch.setattr("pgqueue.client.depths.FRESH_WHEN_FULL", 0.0)
    put("t")
    put("t")
    with pytest.raises(QueueFull):
        put("t")


def test_what_others_put_in_is_seen_when_the_depth_is_looked_up_again(
    bounded: App, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded.using(queue="bulk").enqueue("t")
    for _ in range(5):
        app.using(queue="bulk").enqueue("t")
    bounded.using(queue="bulk").enqueue("t")  # the documented slack: the depth was read a moment ago
    monkeypatch.setattr("pgqueue.client.depths.FRESH_SECONDS", 0.0)
    with pytest.raises(QueueFull):
        bounded.using(queue="bulk").enqueue("t")


def test_scheduled_and_retrying_jobs_count_and_running_ones_do_not(conn: Conn, app: App) -> None:
    for options in ({}, {"delay": 60}, {"delay": 60}):
        app.using(queue="bulk", **options).enqueue("t")  # type: ignore[arg-type]
    app.using(queue="other").enqueue("t")
    assert db.run(conn, QUERIES.jobs.depth("bulk", 100)) == 3
    db.run(conn, QUERIES.jobs.claim(WORKER, {"bulk": 5}, 5))
    assert db.run(conn, QUERIES.jobs.depth("bulk", 100)) == 2


@pytest.mark.parametrize("jobs", [3, 20_000], ids=["exactly", "from a sample"])
def test_jobs_that_were_set_aside_count(conn: Conn, jobs: int) -> None:
    conn.execute(
        "insert into pgqueue.job_live (task, queue, state, waits_for)"
        " select 't' || i %% 3, case when i > %(jobs)s then 'other' else 'bulk' end, 'blocked', 'pause'"
        " from generate_series(1, 2 * %(jobs)s) as i",
        {"jobs": jobs},
    )
    conn.execute("insert into pgqueue.job_live (task, queue) select 't', 'bulk' from generate_series(1, %s)", (jobs,))
    limit = 10 if jobs < 10 else 100_000
    assert db.run(conn, QUERIES.jobs.depth("bulk", limit)) == pytest.approx(2 * jobs, abs=0 if jobs < 10 else 640)
    assert db.run(conn, QUERIES.jobs.depth("bulk", 4 if jobs < 10 else 30_000)) <= (5 if jobs < 10 else 31_000)


def test_no_more_is_counted_than_has_to_be(conn: Conn, app: App) -> None:
    app.task(name="t", queue="bulk")(lambda: None).enqueue_many([{}] * 50)
    assert db.run(conn, QUERIES.jobs.depth("bulk", 10)) == 11


def test_the_depth_of_a_deep_queue_is_told_from_a_sample(conn: Conn) -> None:
    conn.execute("""insert into pgqueue.job_live (task, queue)
        select 't', case when i % 3 = 0 then 'a' else 'bulk' end from generate_series(1, 60000) as i""")
    exact = scalar(conn, "select count(*) from pgqueue.job_live where queue = 'bulk'")
    assert abs(db.run(conn, QUERIES.jobs.depth("bulk", 100_000)) - exact) < exact * 0.05
    assert db.run(conn, QUERIES.jobs.depth("bulk", 20_000)) <= 20_000 + 64


def test_a_queue_without_a_depth_is_never_looked_at(dsn: str, bounded: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(bounded.queries.jobs), "depth", None)
    bounded.enqueue("t")
    with psycopg.connect(dsn) as borrowed:
        bounded.using(borrowed).enqueue("t")


@pytest.mark.parametrize("depth", [0, -1, 1.5, True, "many"])
def test_a_depth_that_cannot_be_used_is_refused(depth: Any) -> None:
    with pytest.raises(InvalidOption, match="max_depth"):
        App(max_depth={"bulk": depth})
