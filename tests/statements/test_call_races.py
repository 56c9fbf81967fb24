"""Calls and awaited topics on two connections at once: which waits for the other, and that no end is lost."""

import random
import threading
from collections.abc import Callable

import psycopg
import pytest

from pgqueue import db
from pgqueue.jobs.event import NewEvent
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.jobs.step import NewStep, RecordedStep, Wakening
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, add_worker, new_job, wait_blocked

Open = Callable[[], Conn]
ASLEEP = Resolution("snooze", "asleep", 1e6, refund=True, wakening=Wakening(None, None))
AWAKE = "select run_at <= clock_timestamp() and signalled is null from pgqueue.job_live where id = %s"
STEP = NewStep("thumb", "call", "null")


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    with psycopg.connect(emptied_dsn, autocommit=True) as conn:
        for table in ("call", "unwanted_call", "step", "signal", "awaited_event", "awaited_topic", "published_event"):
            conn.execute(f"delete from pgqueue.{table}")
    return emptied_dsn


def running(conn: Conn, count: int = 1) -> list[ClaimedJob]:
    worker = add_worker(conn)
    db.run(conn, QUERIES.jobs.enqueue([new_job() for _ in range(count)]))
    return db.run(conn, QUERIES.jobs.claim(worker, {"default": count}, count))


def call(conn: Conn, caller: ClaimedJob, children: int = 1) -> list[ClaimedJob]:
    """Let a job call others, and claim those."""
    with conn.transaction():
        rows = db.run(conn, QUERIES.jobs.enqueue([new_job() for _ in range(children)]))
        recorded = db.run(conn, QUERIES.calls.record(caller, STEP, [row.id for row in rows], list(range(children))))
    assert recorded is not None
    assert recorded.fresh
    return db.run(conn, QUERIES.jobs.claim(caller.worker_id, {"default": children}, children))


def collect(conn: Conn, caller: ClaimedJob) -> RecordedStep:
    (found,) = db.run(conn, QUERIES.calls.collect([(caller, "thumb")]))
    assert found is not None
    return found


def end(conn: Conn, job: ClaimedJob) -> None:
    assert db.run(conn, QUERIES.jobs.resolve_tied([(job, PLAIN_SUCCESS)])).moved == {job.id}


def fall_asleep(conn: Conn, job: ClaimedJob) -> None:
    with conn.transaction():
        assert db.run(conn, QUERIES.jobs.resolve([(job, ASLEEP)])) == {job.id}
        db.run(conn, QUERIES.steps.put_to_sleep([(job, None)]))


def deliver(conn: Conn) -> tuple[int, int]:
    delivery = db.run(conn, QUERIES.signals.deliver(10))
    return delivery.due, delivery.again


def test_an_end_is_marked_while_its_caller_falls_asleep_and_neither_waits(conn: Conn, connect: Open) -> None:
    (caller,) = running(conn)
    (child,) = call(conn, caller)
    assert not collect(conn, caller).done
    a, b = connect(), connect()
    db.run(a, QUERIES.jobs.resolve([(caller, ASLEEP)]))  # holds the row of the caller
    b.execute("set local lock_timeout = '1ms'")
    end(b, child)
    b.commit()
    assert deliver(conn) == (0, 1)  # the row of the caller is held: it comes again
    db.run(a, QUERIES.steps.put_to_sleep([(caller, None)]))
    a.commit()
    assert deliver(conn) == (1, 0)
    assert scalar(conn, AWAKE, caller.id)


def test_falling_asleep_waits_for_the_delivery_of_an_end_and_then_the_job_goes_on(conn: Conn, connect: Open) -> None:
    (caller,) = running(conn)
    (child,) = call(conn, caller)
    assert not collect(conn, caller).done
    end(conn, child)
    a, b = connect(), connect()
    db.run(b, QUERIES.signals.deliver(10))
    falling = InThread(lambda: fall_asleep(a, caller))
    wait_blocked(conn, a, b)
    b.commit()
    falling.result()
    a.commit()
    assert scalar(conn, AWAKE, caller.id)


def test_of_two_ends_at_once_the_one_that_is_delivered_last_wakes_the_caller(conn: Conn, connect: Open) -> None:
    (caller,) = running(conn)
    one, other = call(conn, caller, 2)
    fall_asleep(conn, caller)
    a, b = connect(), connect()
    end(a, one)
    b.execute("set local lock_timeout = '1ms'")
    end(b, other)  # neither sees the other's
    a.commit()
    assert deliver(conn) == (0, 0)
    b.commit()
    assert deliver(conn) == (1, 0)
    assert scalar(conn, "select count(*) from pgqueue.call where not seen") == 0


def test_a_call_is_recorded_once_and_the_second_attempt_inserts_nothing(conn: Conn, connect: Open) -> None:
    (caller,) = running(conn)
    (child,) = call(conn, caller)
    a = connect()
    (row,) = db.run(a, QUERIES.jobs.enqueue([new_job()]))
    again = db.run(a, QUERIES.calls.record(caller, STEP, [row.id], [0]))
    assert again is not None
    assert not again.fresh
    a.rollback()
    assert scalar(conn, "select array_agg(child_id) from pgqueue.call") == [child.id]


def test_a_call_waits_for_a_rescue_and_records_nothing_for_a_lost_lease(conn: Conn, connect: Open) -> None:
    (caller,) = running(conn)
    a, b = connect(), connect()
    b.execute("update pgqueue.job_live set lease = lease + 1 where id = %s", [caller.id])
    (row,) = db.run(a, QUERIES.jobs.enqueue([new_job()]))
    calling = InThread(lambda: db.run(a, QUERIES.calls.record(caller, STEP, [row.id], [0])))
    wait_blocked(conn, a, b)
    b.commit()
    assert calling.result() is None
    a.rollback()
    assert scalar(conn, "select (select count(*) from pgqueue.step) + (select count(*) from pgqueue.call)") == 0


def test_a_collection_holds_the_lease_until_it_commits(conn: Conn, connect: Open) -> None:
    (caller,) = running(conn)
    (child,) = call(conn, caller)
    end(conn, child)
    a, b = connect(), connect()
    assert collect(a, caller).done
    taking = InThread(lambda: b.execute("update pgqueue.job_live set lease = lease + 1 where id = %s", [caller.id]))
    wait_blocked(conn, b, a)
    a.commit()
    taking.result()
    b.rollback()


def test_batches_that_end_jobs_called_by_each_other_s_callers_do_not_wait(conn: Conn, connect: Open) -> None:
    """Each batch puts one caller to sleep and ends a job that the other caller has called."""
    one, other = running(conn, 2)
    (of_one,), (of_other,) = call(conn, one), call(conn, other)
    a, b = connect(), connect()
    for each in (a, b):
        each.execute("set local lock_timeout = '1ms'")
    db.run(a, QUERIES.jobs.resolve([(one, ASLEEP)]))
    db.run(b, QUERIES.jobs.resolve([(other, ASLEEP)]))
    end(a, of_other)
    end(b, of_one)
    for conn_, job in ((a, one), (b, other)):
        db.run(conn_, QUERIES.steps.put_to_sleep([(job, None)]))
        conn_.commit()
    assert deliver(conn) == (2, 0)


def test_the_end_of_a_caller_does_not_wait_for_that_of_a_called_job(conn: Conn, connect: Open) -> None:
    (caller,) = running(conn)
    (child,) = call(conn, caller)
    fall_asleep(conn, caller)
    a, b = connect(), connect()
    end(a, child)
    b.execute("set local lock_timeout = '1ms'")
    db.run(b, QUERIES.jobs.cancel([caller.id], "not wanted"))
    b.commit()
    a.commit()
    assert scalar(conn, "select child_id from pgqueue.unwanted_call") == child.id
    assert db.run(conn, QUERIES.calls.call_off(10)).moved == {child.id}  # it has ended by itself
    assert scalar(conn, "select state from pgqueue.job where id = %s", child.id) == "succeeded"


def test_a_called_job_that_somebody_holds_is_called_off_later(conn: Conn, connect: Open) -> None:
    (caller,) = running(conn)
    (child,) = call(conn, caller)
    db.run(conn, QUERIES.jobs.resolve_tied([(child, Resolution("release", "release"))]))
    db.run(conn, QUERIES.jobs.cancel([caller.id], "not wanted"))
    db.run(conn, QUERIES.jobs.resolve([(caller, Resolution("withdraw", "cancelled by request"))]))
    db.run(conn, QUERIES.steps.compensate([caller]))
    a, b = connect(), connect()
    a.execute("select from pgqueue.job_live where id = %s for update", [child.id])
    b.execute("set local lock_timeout = '1ms'")
    assert db.run(b, QUERIES.calls.call_off(10)).moved == set()
    b.commit()
    a.rollback()
    assert db.run(conn, QUERIES.calls.call_off(10)).moved == {child.id}
    assert scalar(conn, "select state || ': ' || reason from pgqueue.job where id = %s", child.id) == (
        "cancelled: its caller has ended"
    )


def test_no_end_is_lost_while_the_caller_goes_to_wait(conn: Conn, connect: Open) -> None:
    """Hundreds of rounds: the caller looks and falls asleep while two called jobs end on two connections."""
    waiter, ender, other = connect(), connect(), connect()
    for each in (waiter, ender, other):
        each.autocommit = True
    rounds = [(caller, call(conn, caller, 2)) for caller in running(conn, 300)]
    meet, took = threading.Barrier(3, timeout=30), dict[int, bool]()

    def waits() -> None:
        pauses = random.Random(1)
        for caller, _ in rounds:
            meet.wait()
            spin(pauses)
            took[caller.id] = collect(waiter, caller).done
            if not took[caller.id]:
                fall_asleep(waiter, caller)

    def ends(conn: Conn, which: int) -> None:
        pauses = random.Random(2 + which)
        for _, children in rounds:
            meet.wait()
            spin(pauses)
            end(conn, children[which])
            while deliver(conn)[1]:
                pass

    threads = [InThread(waits), InThread(lambda: ends(ender, 0)), InThread(lambda: ends(other, 1))]
    for thread in threads:
        thread.result()
    left = "select count(*) from pgqueue.job_live where state = 'pending' and run_at > now() and attempt = 0"
    assert scalar(conn, left) == 0
    assert 3 < sum(took.values()) < 297  # the race was one


def spin(pauses: random.Random) -> None:
    threading.Event().wait(pauses.uniform(0, 0.004))


# Published events and the first wait for their topic.


def record_wait(conn: Conn, job: ClaimedJob) -> None:
    db.run(conn, QUERIES.steps.record([(job, NewStep("payment", "event", None, None, "payment", "7"))]))


def take(conn: Conn, job: ClaimedJob) -> RecordedStep:
    (found,) = db.run(conn, QUERIES.signals.take([(job, "payment")]))
    assert found is not None
    return found


def publish(conn: Conn, cents: int, key: str | None = "7") -> None:
    db.run(conn, QUERIES.events.publish([NewEvent("payment", f'{{"cents": {cents}}}', key)]))


def test_an_event_of_a_topic_for_which_nobody_has_waited_costs_one_row(conn: Conn) -> None:
    publish(conn, 1)
    assert scalar(conn, "select count(*) from pgqueue.awaited_event") == 0
    (job,) = running(conn)
    record_wait(conn, job)
    publish(conn, 2, key=None)
    assert scalar(conn, "select count(*) from pgqueue.awaited_event") == 0
    publish(conn, 3)
    assert scalar(conn, "select count(*) from pgqueue.awaited_event") == 1


def test_an_event_published_before_the_first_wait_of_all_and_committed_after_the_look_is_not_lost(
    conn: Conn, connect: Open
) -> None:
    (job,) = running(conn)
    a, b = connect(), connect()
    b.execute("set local lock_timeout = '1ms'")
    publish(a, 1)  # sees nobody who waits for the topic
    record_wait(b, job)  # and waits for no publisher
    b.commit()
    assert not take(conn, job).done
    assert db.run(conn, QUERIES.signals.deliver(10)).incomplete
    assert len(db.run(conn, QUERIES.events.publishers())) == 1  # so the topic is not completed yet
    publish(b, 2)  # sees who waits
    b.commit()
    a.commit()
    assert db.run(conn, QUERIES.signals.incomplete_topics()) == ["payment"]
    assert db.run(conn, QUERIES.signals.complete_topics(["payment"])) == 1
    assert not db.run(conn, QUERIES.signals.deliver(10)).incomplete
    assert take(conn, job).value == '{"cents": 1}'  # the oldest first
    assert scalar(conn, "select count(*) from pgqueue.awaited_event") == 2  # each once


def test_two_workers_complete_a_topic_once(conn: Conn, connect: Open) -> None:
    publish(conn, 1)
    (job,) = running(conn)
    record_wait(conn, job)
    a, b = connect(), connect()
    assert db.run(a, QUERIES.signals.complete_topics(["payment"])) == 1
    b.execute("set local lock_timeout = '1ms'")
    assert db.run(b, QUERIES.signals.complete_topics(["payment"])) == 0
    a.commit()
    assert db.run(b, QUERIES.signals.complete_topics(["payment"])) == 0
    assert scalar(conn, "select count(*) from pgqueue.awaited_event") == 1


def test_a_delivery_beside_a_timeout_passes_the_job_and_the_event_is_for_the_next_wait(
    conn: Conn, connect: Open
) -> None:
    (job,) = running(conn)
    new = NewStep("payment", "event", None, -1.0, "payment", "7")
    db.run(conn, QUERIES.steps.record([(job, new)]))
    a, b = connect(), connect()
    assert take(a, job).timed_out  # holds the job until it commits
    publish(conn, 1)
    b.execute("set local lock_timeout = '1ms'")
    delivery = db.run(b, QUERIES.signals.deliver(10))
    assert (delivery.due, delivery.again) == (0, 1)
    b.commit()
    a.commit()
    assert deliver(conn) == (0, 0)
    assert take(conn, job).timed_out  # a timeout once recorded stays
    db.run(conn, QUERIES.steps.record([(job, NewStep("payment#2", "event", None, None, "payment", "7"))]))
    (found,) = db.run(conn, QUERIES.signals.take([(job, "payment#2")]))
    assert found is not None
    assert found.value == '{"cents": 1}'


def test_a_timeout_waits_for_a_delivery_and_takes_the_event(conn: Conn, connect: Open) -> None:
    (job,) = running(conn)
    db.run(conn, QUERIES.steps.record([(job, NewStep("payment", "event", None, -1.0, "payment", "7"))]))
    publish(conn, 1)
    a, b = connect(), connect()
    db.run(b, QUERIES.signals.deliver(10))
    looking = InThread(lambda: take(a, job))
    wait_blocked(conn, a, b)
    b.commit()
    found = looking.result()
    a.commit()
    assert (found.timed_out, found.value) == (False, '{"cents": 1}')
