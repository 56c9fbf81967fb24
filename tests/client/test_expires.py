"""Jobs that expire: they never run late, and are cancelled visibly, whether the sweeper has run or not."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, InvalidOption, db
from pgqueue.db.link import Link
from pgqueue.events import JobExpired
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.scheduler import SchedulerSettings, Ticker, declare
from tests.callers import Caller, on
from tests.conftest import drain, scalar
from tests.harness import QUERIES, WORKER, Conn, insert_job

OVER = "update pgqueue.job_live set expires_at = now() - interval '1 second'"
ENDED = "select state || ' ' || reason from pgqueue.job_finished"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def claim(conn: Conn) -> list[ClaimedJob]:
    return db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 10}, 10))


@pytest.mark.parametrize("kind", ["own", "own async", "psycopg", "AsyncSession", "psycopg autocommit"])
def test_an_expiry_counts_from_the_enqueueing_or_is_a_time(kind: str, dsn: str, app: App, conn: Conn) -> None:
    at = datetime(2031, 5, 1, tzinfo=UTC)

    async def body(caller: Caller) -> None:
        task = app.task(name="t", expires=timedelta(hours=2))(lambda: None)
        for expires in (60, timedelta(minutes=5), at):
            await caller.enqueue(app.using(caller.conn, expires=expires), "other")
        await caller.enqueue(task.using(caller.conn))
        await caller.enqueue_many(task.using(caller.conn, expires=90.5), [{}, {}])
        if not kind.startswith("own"):
            await caller.commit()
        rows = conn.execute("select extract(epoch from expires_at - created_at)::float8, expires_at"
                            " from pgqueue.job_live order by id").fetchall()  # fmt: skip
        assert rows.pop(2)[1] == at
        assert [row[0] for row in rows] == [60, 300, 7200, 90.5, 90.5]

    on(kind, dsn, app, body)


def test_what_has_expired_is_never_claimed_and_holds_up_no_other(app: App, conn: Conn) -> None:
    for _ in range(3):
        app.using(expires=60, priority=9).enqueue("t")
    conn.execute(OVER)
    app.using(expires=60, priority=9).enqueue("t")
    plain = app.enqueue("t")
    assert [job.id for job in claim(conn)] == [plain.id - 1, plain.id]
    app.using(expires=60).enqueue("t")
    conn.execute(OVER)
    due = db.run(conn, QUERIES.jobs.next_due(["default"])).seconds
    assert due is not None
    assert 0 < due <= 1  # no reason to read again at once


def test_what_has_expired_is_not_adopted(app: App, conn: Conn) -> None:
    insert_job(conn, state="blocked", waits_for="task", expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    fresh = insert_job(conn, state="blocked", waits_for="task", expires_at=datetime(2099, 1, 1, tzinfo=UTC))
    assert [job.id for job in db.run(conn, QUERIES.jobs.adopt(WORKER, {"default": 9}, ["t"], 5))] == [fresh]


def test_a_worker_cancels_what_has_expired_and_tells_of_it(app: App, conn: Conn) -> None:
    heard: list[JobExpired] = []
    app.on(JobExpired)(heard.append)
    ran: list[int] = []

    @app.task(name="t")
    def t(n: int) -> None:
        ran.append(n)

    late = t.using(expires=60).enqueue(1)
    conn.execute(OVER)
    t.using(expires=60).enqueue(2)
    drain(app, conn)
    assert ran == [2]
    assert [(event.job_id, event.task, event.queue) for event in heard] == [(late.id, "t", "default")]
    job = app.get(late.id)
    assert (str(job.state), job.reason, job.attempt, job.attempts) == ("cancelled", "expired", 0, ())
    moves = "select from_state || ' ' || to_state || ' ' || reason from pgqueue.transition where reason is not null"
    assert scalar(conn, moves) == "pending cancelled expired"


def test_the_sweeper_takes_all_in_batches(conn: Conn) -> None:
    conn.execute("""insert into pgqueue.job_live (task, queue, expires_at)
        select 't', 'default', now() - make_interval(secs => i / 10) from generate_series(1, 50) as i""")
    first = db.run(conn, QUERIES.jobs.expire(20))
    assert (len(first), first[0].expires_at <= first[-1].expires_at) == (20, True)
    assert len(db.run(conn, QUERIES.jobs.expire(100, first[-1].expires_at))) == 30
    assert scalar(conn, "select count(*) from pgqueue.job_finished where reason = 'expired'") == 50


def test_the_sweeper_skips_what_a_claim_holds_and_finds_it_started(conn: Conn, dsn: str, app: App) -> None:
    app.using(expires=60).enqueue("t")
    with psycopg.connect(dsn) as a, psycopg.connect(dsn) as b:
        assert len(claim(a)) == 1
        a.execute(OVER)  # time passes
        b.execute("set local lock_timeout = '1ms'")
        assert db.run(b, QUERIES.jobs.expire(10)) == []
        a.commit()
        assert db.run(b, QUERIES.jobs.expire(10)) == []


def test_a_claim_skips_what_the_sweeper_holds(conn: Conn, dsn: str, app: App) -> None:
    app.using(expires=60).enqueue("t")
    conn.execute(OVER)
    with psycopg.connect(dsn) as a, psycopg.connect(dsn, autocommit=True) as b:
        assert len(db.run(a, QUERIES.jobs.expire(10))) == 1
        assert claim(b) == []
        a.rollback()
        assert claim(b) == []


@pytest.mark.parametrize(("verb", "expires"), [("retry", False), ("release", True), ("snooze", True), ("park", True)])
def test_only_what_has_not_spent_an_attempt_expires(app: App, conn: Conn, verb: str, expires: bool) -> None:
    app.using(expires=60).enqueue("t")
    (job,) = claim(conn)
    db.run(conn, QUERIES.jobs.resolve([(job, Resolution(verb, verb, 0.0, refund=verb != "retry"))]))
    conn.execute(OVER)
    assert len(claim(conn)) == (verb == "retry")
    assert len(db.run(conn, QUERIES.jobs.expire(10))) == expires


def test_a_job_that_a_schedule_fires_expires_as_its_task_says(app: App, conn: Conn) -> None:
    app.schedule(3600)(app.task(name="hourly", expires=60)(lambda: None))
    app.schedule(3600)(app.task(name="plain")(lambda: None))

    async def fire() -> int:
        link = Link(app.database, "test")
        try:
            await declare(app, link)
            conn.execute("update pgqueue.schedule set next_tick = now() - interval '1 second'")
            return await Ticker(app, link, SchedulerSettings()).fire()
        finally:
            await link.close()

    assert asyncio.run(fire()) == 2
    rows = "select array_agg(expires_at - created_at = '1 min' order by task) from pgqueue.job_live"
    assert scalar(conn, rows) == [True, None]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"expires": 0}, "expires=0"),
    ({"expires": -5}, "expires=-5"),
    ({"expires": float("nan")}, "expires=nan"),
    ({"expires": "soon"}, "expires='soon'"),
    ({"expires": datetime(2031, 1, 1)}, "no timezone"),
    ({"expires": datetime(9999, 1, 1, tzinfo=UTC)}, "year"),
    ({"expires": 5, "delay": 60}, "never run"),
    ({"expires": datetime(2031, 1, 1, tzinfo=UTC), "run_at": datetime(2031, 1, 2, tzinfo=UTC)}, "never run"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=lambda value: ascii(value)[:40])
def test_what_is_no_expiry_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        App().using(**options)


def test_a_task_cannot_expire_at_one_time_for_all() -> None:
    with pytest.raises(InvalidOption, match="seconds or a timedelta"):
        App().task(expires=datetime(2031, 1, 1, tzinfo=UTC))  # type: ignore[call-overload]
