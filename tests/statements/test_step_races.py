"""Steps and signals on two connections at once: which waits for the other, and that no signal is lost."""

import random
import threading
from collections.abc import Callable

import pytest

from pgqueue import db
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.jobs.step import NewStep, RecordedStep, Wakening
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, add_worker, claimed, new_job, wait_blocked

Open = Callable[[], Conn]
Record = Callable[[Conn, ClaimedJob, str, str], RecordedStep | None]
ASLEEP = Resolution("snooze", "asleep", 1e6, refund=True, wakening=Wakening(None, None))


@pytest.fixture
def job(conn: Conn) -> ClaimedJob:
    """A job that runs."""
    return running(conn)


def running(conn: Conn) -> ClaimedJob:
    db.run(conn, QUERIES.jobs.enqueue([new_job()]))
    (job,) = db.run(conn, QUERIES.jobs.claim(add_worker(conn), {"default": 1}, 1))
    return job


@pytest.fixture(params=[0, 1], ids=["alone", "in a batch"])
def record(request: pytest.FixtureRequest) -> Record:
    """Records a value, alone or beside the step of a job that lost its lease: they have statements of their own."""
    others = [(claimed(10**9, 1), NewStep("other", "value", "1"))] * request.param

    def record(conn: Conn, job: ClaimedJob, name: str, value: str) -> RecordedStep | None:
        found, *rest = db.run(conn, QUERIES.steps.record([(job, NewStep(name, "value", value)), *others]))
        assert rest == [None] * request.param
        return found

    return record


def wait_for_signal(conn: Conn, job: ClaimedJob, seconds: float | None = None, name: str = "go") -> None:
    """Record a wait."""
    db.run(conn, QUERIES.steps.record([(job, NewStep(name, "signal", seconds=seconds, waits="go"))]))


def take(conn: Conn, job: ClaimedJob, name: str = "go") -> RecordedStep:
    (found,) = db.run(conn, QUERIES.signals.take([(job, name)]))
    assert found is not None
    return found


def fall_asleep(conn: Conn, job: ClaimedJob) -> set[int]:
    """Let a job fall asleep, in two statements of one transaction."""
    with conn.transaction():
        assert db.run(conn, QUERIES.jobs.resolve([(job, ASLEEP)])) == {job.id}
        return db.run(conn, QUERIES.steps.put_to_sleep([(job, None)]))


def test_a_record_holds_the_lease_until_it_commits(conn: Conn, connect: Open, job: ClaimedJob, record: Record) -> None:
    a, b = connect(), connect()
    record(a, job, "s", "1")
    taking = InThread(lambda: b.execute("update pgqueue.job_live set lease = lease + 1"))
    wait_blocked(conn, b, a)
    a.commit()
    taking.result()
    b.commit()
    assert scalar(conn, "select value from pgqueue.step") == 1


def test_a_record_that_waited_for_another_claim_records_nothing(
    conn: Conn, connect: Open, job: ClaimedJob, record: Record
) -> None:
    a, b = connect(), connect()
    b.execute("update pgqueue.job_live set lease = lease + 1")
    recording = InThread(lambda: record(a, job, "s", "1"))
    wait_blocked(conn, a, b)
    b.commit()
    assert recording.result() is None
    a.commit()
    assert scalar(conn, "select count(*) from pgqueue.step") == 0


def test_records_of_two_steps_of_one_job_do_not_wait(
    conn: Conn, connect: Open, job: ClaimedJob, record: Record
) -> None:
    a, b = connect(), connect()
    record(a, job, "s", "1")
    b.execute("set local lock_timeout = '1ms'")
    record(b, job, "t", "2")


def test_a_record_sent_again_comes_back_as_it_is(conn: Conn, job: ClaimedJob, record: Record) -> None:
    first, again = record(conn, job, "s", "1"), record(conn, job, "s", "2")
    assert first is not None
    assert again is not None
    assert (first.fresh, again.fresh) == (True, False)
    assert (again.value, again.number) == ("1", first.number)


def test_falling_asleep_waits_for_a_delivery_and_then_the_job_goes_on(
    conn: Conn, connect: Open, job: ClaimedJob
) -> None:
    a, b = connect(), connect()
    wait_for_signal(conn, job)
    assert not take(conn, job).done
    db.run(conn, QUERIES.signals.send(job.id, "go", "1"))
    db.run(b, QUERIES.signals.deliver(10))
    falling = InThread(lambda: fall_asleep(a, job))
    wait_blocked(conn, a, b)
    b.commit()
    assert falling.result() == {job.id}
    a.commit()
    assert scalar(conn, "select run_at <= now() and signalled is null from pgqueue.job_live")


def test_a_delivery_passes_a_job_that_falls_asleep_and_comes_again(conn: Conn, connect: Open, job: ClaimedJob) -> None:
    a, b = connect(), connect()
    b.autocommit = True
    wait_for_signal(conn, job)
    take(conn, job)
    db.run(conn, QUERIES.signals.send(job.id, "go", "1"))
    db.run(a, QUERIES.jobs.resolve([(job, ASLEEP)]))
    b.execute("set lock_timeout = '1ms'")
    delivery = db.run(b, QUERIES.signals.deliver(10))
    assert (delivery.due, delivery.again) == (0, 1)
    assert db.run(a, QUERIES.steps.put_to_sleep([(job, None)])) == set()
    a.commit()
    delivery = db.run(b, QUERIES.signals.deliver(10))
    assert (delivery.due, delivery.again) == (1, 0)
    assert scalar(conn, "select run_at <= clock_timestamp() from pgqueue.job_live")


def test_a_look_waits_for_a_delivery_and_takes_the_signal_although_the_time_is_over(
    conn: Conn, connect: Open, job: ClaimedJob
) -> None:
    a, b = connect(), connect()
    wait_for_signal(conn, job, seconds=-1)
    db.run(conn, QUERIES.signals.send(job.id, "go", "7"))
    db.run(b, QUERIES.signals.deliver(10))
    looking = InThread(lambda: take(a, job))
    wait_blocked(conn, a, b)
    b.commit()
    found = looking.result()
    a.commit()
    assert (found.done, found.timed_out, found.value) == (True, False, "7")
    assert scalar(conn, "select count(*) from pgqueue.signal") == 0


def test_a_signal_beside_a_timeout_waits_for_nobody_and_is_for_the_next_wait(
    conn: Conn, connect: Open, job: ClaimedJob
) -> None:
    a, b = connect(), connect()
    wait_for_signal(conn, job, seconds=-1)
    found = take(a, job)
    assert (found.done, found.timed_out) == (True, True)
    b.execute("set local lock_timeout = '1ms'")
    db.run(b, QUERIES.signals.send(job.id, "go", "7"))
    b.commit()
    a.commit()
    again = take(conn, job)
    assert (again.done, again.timed_out, again.value) == (True, True, None)
    wait_for_signal(conn, job, name="go#2")
    assert take(conn, job, "go#2").value == "7"


def test_a_look_that_is_sent_again_takes_no_second_signal(conn: Conn, job: ClaimedJob) -> None:
    for data in ("1", "2"):
        db.run(conn, QUERIES.signals.send(job.id, "go", data))
    wait_for_signal(conn, job)
    assert take(conn, job).value == take(conn, job).value == "1"
    assert scalar(conn, "select count(*) from pgqueue.signal") == 1


def test_a_signal_to_a_job_that_waits_for_its_next_attempt_does_not_bring_it_forward(
    conn: Conn, job: ClaimedJob
) -> None:
    wait_for_signal(conn, job)
    db.run(conn, QUERIES.jobs.resolve([(job, Resolution("retry", "error", 1000.0))]))
    db.run(conn, QUERIES.signals.send(job.id, "go", "1"))
    assert db.run(conn, QUERIES.signals.deliver(10)).due == 0
    assert scalar(conn, "select run_at > now() + interval '900 s' from pgqueue.job_live")


def test_two_deliveries_at_once_share_no_letter_and_do_not_wait(conn: Conn, connect: Open, job: ClaimedJob) -> None:
    a, b = connect(), connect()
    db.run(conn, QUERIES.signals.send(job.id, "go", "1"))
    assert db.run(a, QUERIES.signals.deliver(10)).letters == 1
    b.execute("set local lock_timeout = '1ms'")
    assert db.run(b, QUERIES.signals.deliver(10)).letters == 0


def test_no_signal_is_lost_while_its_job_goes_to_wait(conn: Conn, connect: Open) -> None:
    """A thousand rounds: the job records, looks and falls asleep while the signal is sent and delivered."""
    waiter, sender = connect(), connect()
    waiter.autocommit = sender.autocommit = True
    jobs = [running(conn) for _ in range(1000)]
    meet, took = threading.Barrier(2, timeout=30), dict[int, bool]()

    def waits() -> None:
        pauses = random.Random(1)
        for job in jobs:
            meet.wait()
            wait_for_signal(waiter, job)
            _spin(pauses)
            took[job.id] = take(waiter, job).done
            if not took[job.id]:
                fall_asleep(waiter, job)

    def sends() -> None:
        pauses = random.Random(2)
        for job in jobs:
            meet.wait()
            _spin(pauses)
            db.run(sender, QUERIES.signals.send(job.id, "go", "1"))
            while db.run(sender, QUERIES.signals.deliver(10)).again:
                pass

    threads = [InThread(waits), InThread(sends)]
    for thread in threads:
        thread.result()
    asleep = {
        row[0] for row in conn.execute("select id from pgqueue.job_live where state = 'pending' and run_at > now()")
    }
    assert asleep == set()
    # The race was one: some were taken by the look, others woken.
    assert 10 < sum(took.values()) < 990


def _spin(pauses: random.Random) -> None:
    threading.Event().wait(pauses.uniform(0, 0.0012))
