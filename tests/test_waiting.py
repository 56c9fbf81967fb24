"""Waiting for a job to end: woken by an event, over one connection, through its loss; what it says when it fails."""

import asyncio
import logging
import os
import pickle
import re
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from conftest import DEADLINE, drain, eventually, scalar
from harness import QUERIES, Conn, InThread, claimed, insert_job, wait_blocked, wait_for
from psycopg.conninfo import make_conninfo

from pgqueue import (
    App,
    ConfigError,
    Context,
    DatabaseUnreachable,
    InvalidOption,
    JobFailed,
    JobWasCancelled,
    NotAllowed,
    NotMigrated,
    ResultMissing,
    Task,
    WaitTimeout,
    db,
)
from pgqueue.client import wait_hub as hub
from pgqueue.client.waiting import Ending, Follower
from pgqueue.db.link import Link
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.queries.results import WaitQueries
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.duties import announcer, listener
from pgqueue.worker.duties.announcer import Announcer

CONNECTIONS = "select count(*) from pg_stat_activity where application_name = 'pgqueue waits'"
CUT = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'pgqueue waits'"
WAITED = "select count(*) from pgqueue.waiter"
NOWHERE = App("postgresql://127.0.0.1:1/x")


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks twice by the clock: whoever wakes was woken by an event."""
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE", "FOLLOWED_PAUSE"):
        monkeypatch.setattr(hub, name, 3600.0)
    monkeypatch.setattr(announcer, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(listener, "PING_SECONDS", 3600.0)


@asynccontextmanager
async def working(app: App, **settings: Any) -> AsyncIterator[None]:
    """A worker beside the test."""
    worker = Worker(app, WorkerSettings(**settings))
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await asyncio.wait_for(running, DEADLINE)


@pytest.fixture
def add(app: App) -> Task[[int, int], Any]:
    @app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    return add  # type: ignore[return-value]


def end(conn: Conn, job_id: int, **told: Any) -> None:
    """End a job as a worker would, who does not know that somebody waits."""
    conn.execute(
        "update pgqueue.job_live set state = 'running', lease = 1, attempt = 1, claimed_at = now(),"
        " worker_id = gen_random_uuid() where id = %s",
        (job_id,),
    )
    assert db.run(conn, QUERIES.jobs.resolve([(claimed(job_id, 1), Resolution("succeed", **told))])) == {job_id}


def test_each_wait_is_woken_by_an_event_however_soon_the_job_ends(no_polling: None, app: App, add: Any) -> None:
    """Without a single poll: from the first, of which no worker knows, to those that end while the wait begins."""

    async def body() -> None:
        async with working(app):
            for n in range(60):
                job = await add.aenqueue(n, 1)
                if n % 2:
                    assert await job.await_result(DEADLINE) == n + 1
                else:
                    assert await asyncio.to_thread(job.wait, timedelta(seconds=DEADLINE)) == n + 1
        await app.aclose()

    asyncio.run(body())


@pytest.mark.parametrize("kind", ["thread", "async", "process", "transaction", "atransaction", "child transaction"])
def test_every_way_to_succeed_wakes(no_polling: None, app: App, conn: Conn, kind: str) -> None:
    gate = "select count(*) from pgqueue.queue"

    def ready(own: Conn) -> None:
        while not scalar(own, gate):
            threading.Event().wait(0.01)

    if kind == "async":

        @app.task(name="t")
        async def t() -> str:
            await eventually(lambda: scalar(conn, gate))
            return "done"
    elif kind == "atransaction":

        @app.task(name="t")
        async def t(ctx: Context) -> None:
            await eventually(lambda: scalar(conn, gate))
            async with ctx.atransaction("done"):
                pass
    elif "transaction" in kind:

        @app.task(name="t", isolation="process" if "child" in kind else "thread")
        def t(ctx: Context) -> None:
            with psycopg.connect(app.dsn, autocommit=True) as own:
                ready(own)
            with ctx.transaction("done"):
                pass
    else:

        @app.task(name="t", isolation=kind)
        def t() -> str:
            with psycopg.connect(app.dsn, autocommit=True) as own:
                ready(own)
            return "done"

    async def body() -> None:
        async with working(app):
            waiting = asyncio.create_task((await t.aenqueue()).await_result(DEADLINE))
            await eventually(lambda: scalar(conn, WAITED), "the wait to be known")
            conn.execute("insert into pgqueue.queue (name) values ('go on')")
            assert await waiting == "done"
        await app.aclose()

    asyncio.run(body())
    assert scalar(conn, WAITED) == 0


def test_a_failure_raises_with_the_error(app: App) -> None:
    @app.task(name="bad", retry=[0.01])
    def bad() -> None:
        raise ValueError("no good")

    async def body() -> JobFailed:
        async with working(app):
            job = await bad.aenqueue()
            with pytest.raises(
                JobFailed, match=rf"job {job.id} bad failed \(exhausted\): ValueError: no good"
            ) as caught:
                await job.await_result(DEADLINE)
        await app.aclose()
        return caught.value

    failed = asyncio.run(body())
    assert (failed.task, failed.reason) == ("bad", "exhausted")
    assert failed.error is not None
    assert (failed.error.type, failed.error.message) == ("ValueError", "no good")


def test_a_waiting_job_that_is_cancelled_wakes_at_the_commit(no_polling: None, app: App, conn: Conn, dsn: str) -> None:
    job = app.enqueue("nobody.knows")
    waiting = InThread(lambda: job.wait(DEADLINE))
    wait_for(lambda: scalar(conn, WAITED), "the wait to be known")
    wait_for(lambda: app.waits._hub and app.waits._hub.glimpse(job.id), "the first look")
    with psycopg.connect(dsn) as lent:
        app.using(lent).cancel(job.id, "not wanted")
        assert not waiting.done
    with pytest.raises(JobWasCancelled, match="was cancelled: not wanted"):
        waiting.result()


def test_a_running_job_that_is_cancelled_wakes(no_polling: None, app: App) -> None:
    @app.task(name="long")
    async def long() -> None:
        await asyncio.sleep(3600)

    async def body() -> None:
        async with working(app):
            job = await long.aenqueue()
            waiting = asyncio.create_task(job.await_result(DEADLINE))
            await eventually(lambda: app.get(job.id).state == "running")
            await app.acancel(job.id)
            with pytest.raises(JobWasCancelled, match="cancelled by request"):
                await waiting
        await app.aclose()

    asyncio.run(body())


def test_time_is_up_and_the_job_goes_on(app: App, conn: Conn, add: Any) -> None:
    job = add.enqueue(1, 2)
    with pytest.raises(WaitTimeout, match=rf"job {job.id} has not ended within 0\.3 s: it was pending when last seen"):
        job.wait(0.3)
    with pytest.raises(TimeoutError, match=r"within 0\.1 s"):  # what people catch
        asyncio.run(job.await_result(timedelta(milliseconds=100)))
    drain(app, conn)
    assert job.wait(DEADLINE) == 3


def test_a_database_that_does_not_answer_is_not_blamed_on_the_transaction(app: App, meddle: Any) -> None:
    job, silent = app.enqueue("t"), asyncio.Event()

    async def fall_silent(own: db.AsyncConnection) -> None:
        await silent.wait()

    meddle(b"left join lateral", fall_silent)
    with pytest.raises(WaitTimeout, match=r"within 0\.2 s: the database has not answered"):
        job.wait(0.2)
    hub_of(app)._loop.call_soon_threadsafe(silent.set)


def test_when_time_is_up_it_says_what_the_job_waits_for(app: App, conn: Conn, add: Any) -> None:
    job = add.using(delay=3600).enqueue(1, 2)
    with pytest.raises(WaitTimeout, match="it was scheduled for later"):
        job.wait(0.3)
    conn.execute("update pgqueue.job_live set attempt = 1")
    with pytest.raises(WaitTimeout, match="it was retrying when last seen, after attempt 1 "):
        job.wait(0.3)


def test_a_job_that_has_ended_needs_no_waiter(no_polling: None, app: App, conn: Conn, add: Any) -> None:
    job = add.enqueue(1, 2)
    drain(app, conn)
    assert [job.wait(DEADLINE), app.wait(job.id, DEADLINE), app.get(job.id).wait(DEADLINE)] == [3, 3, 3]


def test_inside_the_transaction_it_says_what_it_waits_for(
    app: App, conn: Conn, dsn: str, add: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MISSING_SECONDS", 0.0)
    with psycopg.connect(dsn) as lent:
        job = add.using(lent).enqueue(1, 2)
        told = "cannot be seen: the transaction that enqueued it has not committed"
        with caplog.at_level(logging.WARNING, "pgqueue.waits"), pytest.raises(WaitTimeout, match=told):
            job.wait(0.5)
        assert f"job {job.id} is waited for and cannot be seen" in caplog.text
        waiting = InThread(lambda: job.wait(DEADLINE))  # waits for the commit, too
        wait_for(lambda: app.waits._hub and app.waits._hub._watched, "the wait")
        lent.commit()
    drain(app, conn)
    assert waiting.result() == 3


def test_the_loss_of_the_connection_is_survived(no_polling: None, app: App, conn: Conn, add: Any) -> None:
    first, second = add.enqueue(1, 2), add.enqueue(3, 4)
    waits = [InThread(lambda: first.wait(DEADLINE)), InThread(lambda: second.wait(DEADLINE))]
    wait_for(
        lambda: app.waits._hub and app.waits._hub.glimpse(first.id) and app.waits._hub.glimpse(second.id), "a look"
    )
    end(conn, first.id, result="3")  # of which nobody tells
    assert not waits[0].done
    assert scalar(conn, CUT) == 1
    assert waits[0].result() == 3  # it looked again when it was connected again
    drain(app, conn)
    assert waits[1].result() == 7  # and it listens again
    assert scalar(conn, CONNECTIONS) == 1


def test_thousands_of_waits_share_a_connection_and_their_looks(
    app: App, conn: Conn, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = WaitQueries.look

    def counted(self: WaitQueries, ids: Sequence[int], followed: Sequence[bool]) -> Any:
        looks.append(len(ids))
        return look(self, ids, followed)

    monkeypatch.setattr(WaitQueries, "look", counted)
    ids = add.enqueue_many({"a": n, "b": 1} for n in range(2000))

    async def body() -> list[Any]:
        waiting = asyncio.gather(*(app.await_result(job_id, DEADLINE) for job_id in ids))
        in_thread = asyncio.create_task(asyncio.to_thread(app.wait_all, ids[:100], DEADLINE))
        await eventually(lambda: scalar(conn, WAITED) == 2000, "all to wait")
        await eventually(lambda: sum(looks) > 3 * 2000, "some looks")
        assert scalar(conn, CONNECTIONS) == 1
        assert len(looks) < 200  # and not thousands
        async with working(app):
            results: list[Any] = await waiting
            assert await in_thread == results[:100]
        await app.aclose()
        return results

    assert asyncio.run(body()) == [n + 1 for n in range(2000)]


def test_while_nobody_waits_no_statement_is_sent(
    app: App, conn: Conn, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[set[int]] = []
    tell = WaitQueries.announce_ended
    monkeypatch.setattr(WaitQueries, "announce_ended", lambda self, ids: told.append(set(ids)) or tell(self, ids))
    add.enqueue_many({"a": n, "b": 1} for n in range(50))
    drain(app, conn)
    assert told == []
    conn.execute("insert into pgqueue.waiter values (0, now() + interval '1 minute'), (1, now() - interval '1 s')")
    (job,) = add.enqueue_many([{"a": 1, "b": 1}])
    drain(app, conn)
    assert told == [{job}]
    assert scalar(conn, "select array_agg(job_id) from pgqueue.waiter") == [0]  # what has expired is gone


def heard(listening: Conn, conn: Conn) -> list[str]:
    """The payloads that came in until now."""
    conn.execute("select pg_notify('pgqueue.ended', 'the end')")
    payloads: list[str] = []
    for notification in listening.notifies(timeout=DEADLINE):
        if notification.payload == "the end":
            return payloads
        payloads.append(notification.payload)
    raise AssertionError("the notification that ends the wait did not come")


def test_who_hears_of_a_wait_tells_of_what_ended_before(conn: Conn, dsn: str) -> None:
    """The race that the first wait of all may lose: the job ends after it has looked, before any worker knows of it."""
    ended, live, gone = 10, insert_job(conn), 11

    async def body(listening: Conn) -> None:
        link = Link(db.Database(dsn), "pgqueue test")
        teller = Announcer(link, QUERIES, listens=True)
        await teller.step()
        conn.execute("insert into pgqueue.waiter select id, now() + interval '1 minute' from unnest(%s) id",
                     ([ended, live],))  # fmt: skip
        teller.ended([ended])
        await teller.step()
        assert heard(listening, conn) == []  # it does not know that somebody waits, and pays nothing
        teller.somebody_waits()
        await teller.step()
        assert heard(listening, conn) == [str(ended)]
        teller.ended([ended, live, gone])
        await teller.step()
        assert heard(listening, conn) == [str(ended)]
        await link.close()

    with psycopg.connect(dsn, autocommit=True) as listening:
        listening.execute('listen "pgqueue.ended"')
        asyncio.run(body(listening))
    assert scalar(conn, "select array_agg(job_id) from pgqueue.waiter") == [live]


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, Callable[[db.AsyncConnection], Any]], None]:
    """Have something happen on the hub's own thread between the first statement of a kind and what follows it."""

    def install(kind: bytes, happen: Callable[[db.AsyncConnection], Any]) -> None:
        done: list[bool] = []
        run = db.run_async

        async def meddling(conn: db.AsyncConnection, query: Any) -> Any:
            answer = await run(conn, query)
            if kind in query.sql and not done:
                done.append(True)
                await happen(conn)
            return answer

        monkeypatch.setattr(db, "run_async", meddling)

    return install


def test_a_notification_that_comes_with_an_answer_is_heard(
    no_polling: None, app: App, conn: Conn, meddle: Any, add: Any
) -> None:
    job = add.enqueue(1, 2)

    async def end_it(own: db.AsyncConnection) -> None:
        end(conn, job.id, result="3")
        db.run(conn, QUERIES.waits.announce_ended([job.id]))
        while not own._notifies_backlog:
            await own.execute("select 1")

    meddle(b"left join lateral", end_it)
    assert job.wait(DEADLINE) == 3


def test_who_comes_while_others_are_registered_is_registered_before_the_look(
    no_polling: None, app: App, conn: Conn, meddle: Any, add: Any
) -> None:
    first, second = add.enqueue(1, 2), add.enqueue(3, 4)
    late: list[InThread] = []

    async def come(own: db.AsyncConnection) -> None:
        late.append(InThread(lambda: second.wait(DEADLINE)))
        await eventually(lambda: app.waits._hub and second.id in app.waits._hub._watched, "the second wait")

    async def end_it(own: db.AsyncConnection) -> None:
        end(conn, second.id, result="7")  # of which nobody tells: there is no row of this waiter yet

    meddle(b"on conflict (job_id)", come)
    meddle(b"left join lateral", end_it)
    waiting = InThread(lambda: first.wait(DEADLINE))
    wait_for(lambda: scalar(conn, WAITED) == 2, "both to be registered")
    assert late[0].result() == 7
    drain(app, conn)
    assert waiting.result() == 3


def test_many_are_told_in_few_notifications(conn: Conn, dsn: str) -> None:
    ids = [2**62 + n for n in range(1000)]  # the longest there are
    db.run(conn, QUERIES.waits.register_waits(ids, announce=False))
    with psycopg.connect(dsn, autocommit=True) as listening:
        listening.execute('listen "pgqueue.ended"')
        db.run(conn, QUERIES.waits.catch_up())
        db.run(conn, QUERIES.waits.announce_ended(ids))
        payloads = heard(listening, conn)
    assert len(payloads) == 2 * 4  # each fits into the 8000 bytes that there are
    assert sorted(int(word) for payload in payloads for word in payload.split()) == sorted(ids * 2)


def test_two_who_register_and_one_who_tells_cannot_deadlock(conn: Conn, dsn: str) -> None:
    ids = list(range(1, 200))
    for job_id in reversed(ids):  # so that they do not lie in the order of their ids
        db.run(conn, QUERIES.waits.register_waits([job_id], announce=False))
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        db.run(first, QUERIES.waits.register_waits(ids[:1], announce=False))
        telling = InThread(lambda: db.run(second, QUERIES.waits.announce_ended(ids)))
        wait_blocked(conn, second, first)  # at the first row: it holds none that the other may want
        db.run(first, QUERIES.waits.register_waits(reversed(ids), announce=False))
        first.commit()
        telling.result()
        second.commit()
    assert scalar(conn, WAITED) == 0


def test_retried_jobs_are_waited_for_until_their_end(no_polling: None, app: App, conn: Conn) -> None:
    @app.task(name="twice", retry=[0.01])
    async def twice(ctx: Context) -> int:
        await eventually(lambda: scalar(conn, WAITED))
        if ctx.attempt == 1:
            raise ConnectionError
        return ctx.attempt

    async def body() -> None:
        async with working(app):
            assert await (await twice.aenqueue()).await_result(DEADLINE) == 2
        await app.aclose()

    asyncio.run(body())


@pytest.mark.parametrize("kept", [None, 0])
def test_of_what_is_not_kept_the_end_is_still_noticed(app: App, kept: int | None) -> None:
    @app.task(name="t", retention=kept, store_result=False)
    async def t() -> str:
        return "thrown away"

    async def body() -> None:
        async with working(app):
            assert await (await t.aenqueue()).await_result(DEADLINE) is None
        await app.aclose()

    asyncio.run(body())


def test_a_result_that_could_not_be_stored_is_said_to_be_missing(app: App, conn: Conn) -> None:
    @app.task(name="t")
    def t() -> object:
        return {"x": float("nan")}

    job = t.enqueue()
    drain(app, conn)
    with pytest.raises(ResultMissing, match=r"has succeeded, but its result is not stored: result\.x: nan is not JSON"):
        job.wait(DEADLINE)


def test_all_of_many_come_in_order_and_the_first_failure_is_raised(app: App, conn: Conn, add: Any) -> None:
    ids = add.enqueue_many([{"a": n, "b": 0} for n in range(5)])
    lost = app.enqueue("nobody.knows").id
    with pytest.raises(WaitTimeout, match=rf"job {ids[0]} .*\(6 of 6 have not\)"):
        app.wait_all([*ids, lost], 0.1)
    app.cancel(lost)
    drain(app, conn)
    assert app.wait_all(reversed(ids), DEADLINE) == [4, 3, 2, 1, 0]
    assert asyncio.run(app.await_all([], DEADLINE)) == []
    with pytest.raises(JobWasCancelled):
        asyncio.run(app.await_all([*ids, lost], DEADLINE))


def test_of_a_job_that_is_known_to_be_gone_nothing_is_awaited(app: App, conn: Conn) -> None:
    once = app.task(name="t", max_attempts=1)(lambda: 1 / 0).using(idempotency_key="once")
    once.enqueue()
    drain(app, conn)
    conn.execute("delete from pgqueue.dead_letter")
    with pytest.raises(ResultMissing, match="job 1 t has ended, and nothing is kept of it"):
        once.enqueue().wait()


def test_who_comes_while_the_connection_is_given_up_is_told_so(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = app.enqueue("t"), app.enqueue("t")
    late: list[Ending] = []
    close = Link.close

    async def come(self: Link) -> None:
        if self is hub_of(app)._link:
            late.append(Ending(second.id, committed=True))
            hub_of(app).add(late[0])
        await close(self)

    def look(self: WaitQueries, *_: Any) -> Any:
        raise RuntimeError("what nobody has foreseen")

    monkeypatch.setattr(WaitQueries, "look", look)
    monkeypatch.setattr(Link, "close", come)
    for wait in (first.wait, lambda limit: late[0].future.result(limit)):
        with pytest.raises(RuntimeError, match="foreseen"):
            wait(DEADLINE)
    assert "in an unforeseen way" in caplog.text


def hub_of(app: App) -> hub.WaitHub:
    assert app.waits._hub
    return app.waits._hub


def test_who_leaves_before_his_wait_was_said_is_forgotten(app: App, conn: Conn, meddle: Any) -> None:
    first, second = app.enqueue("t"), app.enqueue("t")

    async def come_and_go(own: db.AsyncConnection) -> None:
        ending = Ending(second.id, committed=True)
        hub_of(app).add(ending)
        hub_of(app).drop(ending)

    meddle(b"on conflict (job_id)", come_and_go)
    waiting = InThread(lambda: first.wait(DEADLINE))
    wait_for(lambda: app.waits._hub and app.waits._hub.glimpse(first.id), "a look")
    wait_for(lambda: not hub_of(app)._unsaid, "nothing to be left to say")
    app.cancel(first.id)
    with pytest.raises(JobWasCancelled):
        waiting.result()


def test_the_last_but_one_word_is_not_taken_for_the_last(app: App) -> None:
    """The end is said while a change is being heard: who follows hears both, in order."""
    job = app.enqueue("t")

    async def body() -> None:
        follower = Follower(app.waits, job.id)
        hearing = asyncio.create_task(follower.next(DEADLINE))
        await asyncio.sleep(0)  # it waits now; what is added here happens after it was woken, and before it goes on
        follower._news.add_done_callback(lambda _: follower.ended(None))
        follower.changed(job)
        assert (await hearing, follower.over) == (job, False)
        assert (await follower.next(DEADLINE), follower.over) == (None, True)

    asyncio.run(body())


def test_who_stops_waiting_leaves_nothing_behind(app: App, add: Any) -> None:
    job = add.enqueue(1, 2)

    async def body() -> None:
        waits = [asyncio.create_task(job.await_result()) for _ in range(3)]
        await eventually(lambda: app.waits._hub and app.waits._hub.glimpse(job.id), "a look")
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        await eventually(lambda: app.waits._hub and not app.waits._hub._watched, "all to be gone")

    asyncio.run(body())


def test_close_ends_the_waits_and_the_app_can_be_used_again(app: App, conn: Conn, add: Any) -> None:
    job = add.enqueue(1, 2)
    waiting = InThread(lambda: job.wait(DEADLINE))
    wait_for(lambda: scalar(conn, WAITED), "the wait")
    app.close()
    with pytest.raises(DatabaseUnreachable, match="the app was closed"):
        waiting.result()
    wait_for(lambda: scalar(conn, CONNECTIONS) == 0, "the connection to be closed")
    assert not [thread for thread in threading.enumerate() if thread.name == "pgqueue-waits"]
    drain(app, conn)
    assert job.wait(DEADLINE) == 3


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_waits_on_a_connection_of_its_own(app: App, conn: Conn, add: Any) -> None:
    jobs = [add.enqueue(n, 0) for n in range(2)]
    waiting = InThread(lambda: jobs[0].wait(DEADLINE))
    wait_for(lambda: scalar(conn, WAITED), "the wait")
    end(conn, jobs[1].id, result="1")
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if jobs[1].wait(DEADLINE) == 1 else 2)
        except BaseException:  # noqa: BLE001 - the child must never run on into the tests
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not waiting.done
    end(conn, jobs[0].id, result="0")
    assert waiting.result() == 0


def test_without_listen_it_polls(dsn: str, conn: Conn) -> None:
    app = App(dsn, pgbouncer=True)
    app.task(name="t")(lambda: "done")
    job = app.enqueue("t")
    waiting = InThread(lambda: job.wait(DEADLINE))
    wait_for(lambda: app.waits._hub and app.waits._hub.glimpse(job.id), "a look")
    drain(app, conn)
    assert waiting.result() == "done"
    assert scalar(conn, WAITED) == 0
    app.close()


@pytest.mark.parametrize("wait", [lambda app: app.wait(1), lambda app: asyncio.run(app.await_result(1))])
def test_where_no_connection_can_be_made_it_says_so_at_once(empty_dsn: str, wait: Callable[[App], Any]) -> None:
    for dsn, error in (("postgresql://127.0.0.1:1/x", DatabaseUnreachable), (empty_dsn, NotMigrated)):
        app = App(dsn)
        with pytest.raises(error):
            wait(app)
        app.close()


@pytest.mark.parametrize("job_id", [0, -1, 2**63, "1", 1.0, True, None])
def test_what_is_no_id_is_refused(job_id: Any) -> None:
    with pytest.raises(InvalidOption, match="give the id of a job"):
        NOWHERE.wait(job_id, 1)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), timedelta(0), True, "1"])
def test_what_is_no_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidOption, match="cannot be used: give"):
        NOWHERE.wait(1, timeout)


def test_a_copy_of_a_job_does_not_know_its_app(app: App) -> None:
    job = app.enqueue("t")
    copy = pickle.loads(pickle.dumps(job))
    assert copy == job
    assert "handle" not in repr(copy)
    with pytest.raises(ConfigError, match=rf"use app\.wait\({job.id}\)"):
        copy.wait(1)


def test_a_notification_that_means_nothing_is_passed_over(app: App, conn: Conn) -> None:
    job_id = insert_job(conn)
    waiting = InThread(lambda: app.wait(job_id, DEADLINE))
    wait_for(lambda: scalar(conn, WAITED), "the wait")
    for payload in ("", "what?", "1e3 -5 ² 99999999999999999999999", str(job_id)):
        conn.execute("select pg_notify('pgqueue.ended', %s)", (payload,))
    end(conn, job_id, result='"fine"')
    assert waiting.result() == "fine"


PAGES = Path(__file__).parent.parent / "docs"
DOCS = (PAGES / "results.md").read_text()


def test_the_example_in_the_docs_runs(app: App, add: Any) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)

    async def body() -> None:
        async with working(app):
            await asyncio.to_thread(exec, compile(code, "results.md", "exec"), {"app": app, "add": add})

    asyncio.run(body())


def test_the_roles_in_the_docs_can_wait_and_cancel_and_no_more(app: App, conn: Conn, dsn: str, add: Any) -> None:
    (grants,) = re.findall(r"^```sql\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    role = f"web_{os.getpid()}_{threading.get_ident()}"
    conn.execute(f"create role {role}".encode())
    waiting = App(make_conninfo(dsn, options=f"-c role={role}"))
    try:
        ended, pending = add.enqueue(1, 2), add.enqueue(3, 4)
        end(conn, ended.id, result="3")
        with pytest.raises(NotAllowed, match=r"docs/operations\.md"):
            waiting.wait(ended.id, DEADLINE)
        conn.execute(re.sub(r"to web;", f"to {role};", grants).encode())
        assert waiting.wait(ended.id, DEADLINE) == waiting.get(ended.id).result == 3
        with pytest.raises(WaitTimeout):
            waiting.wait(pending.id, 0.2)
        for forbidden in (lambda: waiting.enqueue("add"), lambda: waiting.cancel(pending.id)):
            with pytest.raises(NotAllowed):
                forbidden()
        (more,) = re.findall(r"^```sql\n(.*?)^```", (PAGES / "web.md").read_text(), re.MULTILINE | re.DOTALL)
        conn.execute(re.sub(r"to web;", f"to {role};", more).encode())
        assert waiting.cancel(pending.id)
        insert_job(conn, id=99, state="running", worker_id=uuid4(), claimed_at="2026-01-01Z", attempt=1, lease=1)
        assert not waiting.cancel(99)
    finally:
        waiting.close()
        conn.execute(f"drop owned by {role}; drop role {role}".encode())
