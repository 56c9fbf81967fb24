"""Notifications of ends: a wait registers before it reads; any order works, without a deadlock."""

import asyncio
from typing import Any

import psycopg
import pytest

from pgqueue import App, JobWasCancelled, db
from pgqueue.client.waiting import EndWaiter, Follower
from pgqueue.db.link import Link
from pgqueue.worker.duties.announcer import Announcer
from tests.client.waiting.looks import WAITED, end, heard, hub_of
from tests.conftest import DEADLINE, drain, eventually, scalar
from tests.harness import QUERIES, Conn, InThread, insert_job, wait_blocked, wait_for


def test_who_hears_of_a_wait_tells_of_what_ended_before(conn: Conn, dsn: str) -> None:
    """The race that the first wait may lose: the job ends after it has read, before any worker knows of the wait."""
    ended, live, gone = 10, insert_job(conn), 11

    async def body(listening: Conn) -> None:
        link = Link(db.Database(dsn), "pgqueue test")
        announcer = Announcer(link, QUERIES, listens=True)
        await announcer.step()
        conn.execute("insert into pgqueue.waiter select id, now() + interval '1 minute' from unnest(%s) id",
                     ([ended, live],))  # fmt: skip
        announcer.jobs_moved([ended])
        await announcer.step()
        assert heard(listening, conn) == []  # it knows of no wait, and pays nothing
        announcer.job_awaited()
        await announcer.step()
        assert heard(listening, conn) == [str(ended)]
        announcer.jobs_moved([ended, live, gone])
        await announcer.step()
        assert heard(listening, conn) == [str(ended)]
        await link.close()

    with psycopg.connect(dsn, autocommit=True) as listening:
        listening.execute('listen "pgqueue.ended"')
        asyncio.run(body(listening))
    assert scalar(conn, "select array_agg(job_id) from pgqueue.waiter") == [live]


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
        end(conn, second.id, result="7")  # without a notification: this waiter has no row yet

    meddle(b"on conflict (job_id)", come)
    meddle(b"left join lateral", end_it)
    waiting = InThread(lambda: first.wait(DEADLINE))
    wait_for(lambda: scalar(conn, WAITED) == 2, "both to be registered")
    assert late[0].result() == 7
    drain(app, conn)
    assert waiting.result() == 3


def test_a_worker_that_is_told_to_stop_still_tells_of_what_has_just_ended(conn: Conn, dsn: str) -> None:
    conn.execute("insert into pgqueue.waiter (job_id, expires_at) values (7, now() + interval '1 minute')")

    async def stop() -> None:
        link = Link(db.Database(dsn), "pgqueue test")
        announcer = Announcer(link, QUERIES, listens=True)
        announcer.job_awaited()
        announcer.jobs_moved([7])
        announcer.stop()
        await announcer.run()
        await link.close()

    asyncio.run(stop())
    assert scalar(conn, "select count(*) from pgqueue.waiter") == 0


def test_many_are_told_in_few_notifications(conn: Conn, dsn: str) -> None:
    ids = [2**62 + n for n in range(1000)]  # the longest possible
    db.run(conn, QUERIES.waits.register(ids, announce=False))
    with psycopg.connect(dsn, autocommit=True) as listening:
        listening.execute('listen "pgqueue.ended"')
        db.run(conn, QUERIES.waits.announce_missed())
        db.run(conn, QUERIES.waits.announce_ended(ids))
        payloads = heard(listening, conn)
    assert len(payloads) == 2 * 4  # each fits into the 8000 bytes of a payload
    assert sorted(int(word) for payload in payloads for word in payload.split()) == sorted(ids * 2)


def test_two_who_register_and_one_who_tells_cannot_deadlock(conn: Conn, dsn: str) -> None:
    ids = list(range(1, 200))
    for job_id in reversed(ids):  # so that the rows do not lie in the order of their ids
        db.run(conn, QUERIES.waits.register([job_id], announce=False))
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        db.run(first, QUERIES.waits.register(ids[:1], announce=False))
        telling = InThread(lambda: db.run(second, QUERIES.waits.announce_ended(ids)))
        wait_blocked(conn, second, first)  # at the first row: it holds none that the other needs
        db.run(first, QUERIES.waits.register(reversed(ids), announce=False))
        first.commit()
        telling.result()
        second.commit()
    assert scalar(conn, WAITED) == 0


def test_who_leaves_before_his_wait_was_said_is_forgotten(app: App, conn: Conn, meddle: Any) -> None:
    first, second = app.enqueue("t"), app.enqueue("t")

    async def come_and_go(own: db.AsyncConnection) -> None:
        ending = EndWaiter(second.id, committed=True)
        hub_of(app).add(ending)
        hub_of(app).drop(ending)

    meddle(b"on conflict (job_id)", come_and_go)
    waiting = InThread(lambda: first.wait(DEADLINE))
    wait_for(lambda: app.waits._hub and app.waits._hub.snapshot(first.id), "a look")
    wait_for(lambda: not hub_of(app)._unregistered, "nothing to be left to say")
    app.cancel(first.id)
    with pytest.raises(JobWasCancelled):
        waiting.result()


def test_the_last_but_one_word_is_not_taken_for_the_last(app: App) -> None:
    """The end is announced while a change is being read: a follower gets both, in order."""
    job = app.enqueue("t")

    async def body() -> None:
        follower = Follower(app.waits, job.id)
        hearing = asyncio.create_task(follower.next(DEADLINE))
        await asyncio.sleep(0)  # it waits now; what follows happens after it is woken and before it goes on
        follower._change.add_done_callback(lambda _: follower.ended(None))
        follower.changed(job)
        assert (await hearing, follower.done) == (job, False)
        assert (await follower.next(DEADLINE), follower.done) == (None, True)

    asyncio.run(body())


def test_a_notification_that_means_nothing_is_passed_over(app: App, conn: Conn) -> None:
    job_id = insert_job(conn)
    waiting = InThread(lambda: app.wait(job_id, DEADLINE))
    wait_for(lambda: scalar(conn, WAITED), "the wait")
    for payload in ("", "what?", "1e3 -5 ² 99999999999999999999999", str(job_id)):
        conn.execute("select pg_notify('pgqueue.ended', %s)", (payload,))
    end(conn, job_id, result='"fine"')
    assert waiting.result() == "fine"
