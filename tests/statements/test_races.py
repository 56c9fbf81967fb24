"""Two connections at once: which waits for the other, and which wins. pg_blocking_pids proves each wait."""

import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import db
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.jobs.retention import RetentionRule
from pgqueue.schedules.plan import Every
from pgqueue.schedules.schedule import Schedule
from pgqueue.schedules.ticks import TickRecord
from tests.conftest import scalar
from tests.harness import (
    QUERIES,
    WORKER,
    Conn,
    InThread,
    add_worker,
    claimed,
    insert_job,
    new_job,
    wait_blocked,
    wait_for,
)

ROOMS = {"default": 3}
Open = Callable[[], Conn]


def at_once(conn: Conn) -> AbstractContextManager[Any]:
    """Make any wait for a lock an error."""
    conn.execute("set local lock_timeout = '1ms'")
    return conn.transaction()


def claim(conn: Conn, worker: Any = WORKER) -> list[ClaimedJob]:
    return db.run(conn, QUERIES.jobs.claim(worker, ROOMS, 3))


def running_job(conn: Conn, *, lost: bool = True) -> ClaimedJob:
    """A running job whose worker lives or was declared lost."""
    db.run(conn, QUERIES.jobs.enqueue([new_job()]))
    (job,) = claim(conn, add_worker(conn))
    if lost:
        conn.execute("update pgqueue.worker set lost_at = now()")
    return job


def test_two_claims_at_once_share_no_row_and_do_not_wait(conn: Conn, connect: Open) -> None:
    db.run(conn, QUERIES.jobs.enqueue([new_job() for _ in range(6)]))
    a, b = connect(), connect()
    first = claim(a)
    with at_once(b):
        second = claim(b)
    assert {job.id for job in first + second} == set(range(1, 7))


def test_a_claim_finds_nothing_and_does_not_wait_when_others_hold_all_rows(conn: Conn, connect: Open) -> None:
    db.run(conn, QUERIES.jobs.enqueue([new_job()]))
    a, b = connect(), connect()
    claim(a)
    with at_once(b):
        assert claim(b) == []


def test_many_claimers_take_each_job_exactly_once(conn: Conn, dsn: str) -> None:
    db.run(conn, QUERIES.jobs.enqueue([new_job(priority=i % 5) for i in range(2000)]))
    barrier = threading.Barrier(6)

    def take_all() -> list[int]:
        with psycopg.connect(dsn, autocommit=True) as own:
            barrier.wait()
            taken: list[int] = []
            while jobs := claim(own):
                taken += [job.id for job in jobs]
            return taken

    threads = [InThread(take_all) for _ in range(6)]
    taken = [job for thread in threads for job in thread.result()]
    assert sorted(taken) == list(range(1, 2001))
    assert scalar(conn, "select max(lease) from pgqueue.job_live") == 1


def test_a_job_enqueued_in_an_open_transaction_is_not_claimed(conn: Conn, connect: Open) -> None:
    db.run(connect(), QUERIES.jobs.enqueue([new_job()]))
    assert claim(conn) == []


def test_an_open_transaction_that_enqueued_holds_up_no_other_enqueue_and_no_claim(conn: Conn, connect: Open) -> None:
    a, b = connect(), connect()
    db.run(a, QUERIES.jobs.enqueue([new_job()]))
    with at_once(b):
        (job,) = db.run(b, QUERIES.jobs.enqueue([new_job()]))
    b.commit()
    assert [taken.id for taken in claim(conn)] == [job.id]


def test_a_stale_outcome_after_a_rescue_changes_nothing(conn: Conn) -> None:
    job = running_job(conn)
    db.run(conn, QUERIES.jobs.rescue(WORKER))
    assert db.run(conn, QUERIES.jobs.resolve([(job, Resolution("succeed"))])) == set()
    assert scalar(conn, "select state from pgqueue.job") == "pending"


def test_a_stale_outcome_does_not_touch_the_next_attempt(conn: Conn) -> None:
    job = running_job(conn)
    db.run(conn, QUERIES.jobs.rescue(WORKER))
    (again,) = claim(conn)
    assert (again.id, again.lease) == (job.id, job.lease + 1)
    assert db.run(conn, QUERIES.jobs.resolve([(job, Resolution("dead_letter", "error"))])) == set()
    assert scalar(conn, "select state || lease from pgqueue.job_live") == "running2"


def test_a_rescue_skips_a_job_whose_outcome_is_in_flight(conn: Conn, connect: Open) -> None:
    job = running_job(conn)
    a, b = connect(), connect()
    assert db.run(a, QUERIES.jobs.resolve([(job, Resolution("succeed"))])) == {job.id}
    with at_once(b):
        assert db.run(b, QUERIES.jobs.rescue(WORKER)) == []
    a.commit()
    assert db.run(conn, QUERIES.jobs.rescue(WORKER)) == []
    assert scalar(conn, "select state from pgqueue.job") == "succeeded"


OUTCOMES = [
    Resolution("succeed"),
    Resolution("succeed", result="1"),
    Resolution("retry", "r"),
    Resolution("dead_letter", "r"),
]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_waits_for_a_rescue_in_flight_and_then_moves_nothing(
    conn: Conn, connect: Open, outcome: Resolution
) -> None:
    job = running_job(conn)
    a, b = connect(), connect()
    assert [rescued.id for rescued in db.run(a, QUERIES.jobs.rescue(WORKER))] == [job.id]
    late = InThread(lambda: db.run(b, QUERIES.jobs.resolve([(job, outcome)])))
    wait_blocked(conn, b, a)
    a.commit()
    assert late.result() == set()
    b.commit()
    assert scalar(conn, "select state from pgqueue.job") == "pending"
    assert scalar(conn, "select count(*) from pgqueue.transition where from_state = 'running'") == 1


def test_an_outcome_that_waited_for_a_rescue_that_rolled_back_is_written(conn: Conn, connect: Open) -> None:
    job = running_job(conn)
    a, b = connect(), connect()
    db.run(a, QUERIES.jobs.rescue(WORKER))
    late = InThread(lambda: db.run(b, QUERIES.jobs.resolve([(job, Resolution("succeed"))])))
    wait_blocked(conn, b, a)
    a.rollback()
    assert late.result() == {job.id}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_that_waited_for_a_note_of_progress_is_written(
    conn: Conn, connect: Open, outcome: Resolution
) -> None:
    job, other = running_job(conn), running_job(conn)
    a, b = connect(), connect()
    assert db.run(a, QUERIES.jobs.note_progress([(job, "{}"), (other, "{}")])) == {job.id, other.id}
    late = InThread(lambda: db.run(b, QUERIES.jobs.resolve([(one, outcome) for one in (job, other)])))
    wait_blocked(conn, b, a)
    a.commit()
    assert late.result() == {job.id, other.id}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_that_waited_until_its_job_ran_again_elsewhere_moves_nothing(
    conn: Conn, connect: Open, outcome: Resolution
) -> None:
    job = running_job(conn)
    a, b = connect(), connect()
    db.run(a, QUERIES.jobs.rescue(WORKER))
    (again,) = claim(a)
    late = InThread(lambda: db.run(b, QUERIES.jobs.resolve([(job, outcome)])))
    wait_blocked(conn, b, a)
    a.commit()
    assert late.result() == set()
    assert scalar(conn, "select state || lease from pgqueue.job_live") == f"running{again.lease}"


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_lease_counts_for_its_own_job_alone(conn: Conn, outcome: Resolution) -> None:
    first = running_job(conn)
    db.run(conn, QUERIES.jobs.rescue(WORKER))
    (first,) = claim(conn)
    second = running_job(conn)
    assert first.lease != second.lease
    crossed = [(replace(first, lease=second.lease), outcome), (replace(second, lease=first.lease), outcome)]
    assert db.run(conn, QUERIES.jobs.resolve(crossed)) == set()
    assert db.run(conn, QUERIES.jobs.resolve([(first, outcome), (second, outcome)])) == {first.id, second.id}


def test_two_rescues_at_once_take_a_job_once(conn: Conn, connect: Open) -> None:
    job = running_job(conn)
    a, b = connect(), connect()
    assert [rescued.id for rescued in db.run(a, QUERIES.jobs.rescue(WORKER))] == [job.id]
    with at_once(b):
        assert db.run(b, QUERIES.jobs.rescue(WORKER)) == []
    a.commit()
    assert scalar(conn, "select crash_count from pgqueue.job") == 1


def test_a_worker_whose_heartbeat_is_in_flight_is_not_declared_lost(conn: Conn, connect: Open) -> None:
    worker = add_worker(conn, beat_seconds_ago=60)
    a, b = connect(), connect()
    assert db.run(a, QUERIES.workers.heartbeat(worker)).alive is True
    assert db.run(b, QUERIES.workers.declare_lost()) == []  # skipped, not waited for
    a.commit()
    assert db.run(b, QUERIES.workers.declare_lost()) == []
    b.commit()
    assert scalar(conn, "select lost_at is null from pgqueue.worker")


def test_a_heartbeat_that_comes_too_late_learns_that_the_worker_is_lost(conn: Conn, connect: Open) -> None:
    worker = add_worker(conn, beat_seconds_ago=60)
    a, b = connect(), connect()
    assert [lost.id for lost in db.run(a, QUERIES.workers.declare_lost())] == [worker]
    beating = InThread(lambda: db.run(b, QUERIES.workers.heartbeat(worker)).alive)
    wait_blocked(conn, b, a)
    a.commit()
    assert beating.result() is False


def declare_due(conn: Conn, count: int) -> None:
    tick = datetime.now(UTC) - timedelta(seconds=5)
    db.run(
        conn,
        QUERIES.schedules.declare([(Schedule(f"s{i}", Every(3600), new_job(queue="q")), tick) for i in range(count)]),
    )


def test_two_schedulers_at_once_lock_different_schedules_and_do_not_wait(conn: Conn, connect: Open) -> None:
    declare_due(conn, 4)
    a, b = connect(), connect()
    first = {due.schedule.name for due in db.run(a, QUERIES.schedules.lock_due(2))}
    with at_once(b):
        second = {due.schedule.name for due in db.run(b, QUERIES.schedules.lock_due(10))}
    assert len(first) == len(second) == 2
    assert first | second == {"s0", "s1", "s2", "s3"}


def test_a_tick_that_fires_a_second_time_raises_and_takes_its_job_with_it(conn: Conn, connect: Open) -> None:
    tick = datetime(2026, 1, 1, tzinfo=UTC)

    def fire(one: Conn) -> None:
        (row,) = db.run(one, QUERIES.jobs.enqueue([new_job()]))
        db.run(one, QUERIES.schedules.record_ticks([TickRecord("s", tick, "fired", None, row.id)]))

    a, b = connect(), connect()
    fire(a)
    second = InThread(lambda: fire(b))
    wait_blocked(conn, b, a)
    a.commit()
    with pytest.raises(psycopg.errors.UniqueViolation):
        second.result()
    b.rollback()
    assert scalar(conn, "select count(*) from pgqueue.job") == 1
    assert scalar(conn, "select count(*) from pgqueue.schedule_fire") == 1


def test_a_worker_row_that_is_locked_holds_up_no_claim(conn: Conn, connect: Open) -> None:
    worker = add_worker(conn)
    insert_job(conn)
    a, b = connect(), connect()
    db.run(a, QUERIES.workers.heartbeat(worker))
    with at_once(b):
        assert len(claim(b, worker)) == 1


def test_a_retried_outcome_whose_first_answer_was_lost_moves_nothing_twice(conn: Conn) -> None:
    job = running_job(conn, lost=False)
    batch = [(claimed(job.id, job.lease), Resolution("retry", "error"))]
    assert db.run(conn, QUERIES.jobs.resolve(batch)) == {job.id}
    assert db.run(conn, QUERIES.jobs.resolve(batch)) == set()
    wait_for(lambda: scalar(conn, "select count(*) from pgqueue.transition where from_state = 'running'") == 1)


@pytest.mark.parametrize("verb", ["request", "record_deaths"])
def test_rows_of_workers_are_locked_in_the_order_of_ids(conn: Conn, connect: Open, verb: str) -> None:
    """They lie in the table as they came: a scan of it would lock the last id first."""
    last, first = uuid.UUID(int=2), uuid.UUID(int=1)
    for worker in (last, first):
        add_worker(conn, worker=worker)
    queries = QUERIES.workers
    query = queries.request([last, first], "quiet", "me") if verb == "request" else queries.record_deaths(
        {last: "was killed by SIGKILL", first: "was killed by SIGKILL"}
    )  # fmt: skip
    lock = "select from pgqueue.worker where id = %s for update nowait"
    holder, asking, other = connect(), connect(), connect()
    holder.execute(lock, (first,))
    waiting = InThread(lambda: db.run(asking, query))
    wait_blocked(conn, asking, holder)
    other.execute(lock, (last,))  # the statement has not locked this one yet
    other.rollback()
    holder.rollback()
    assert waiting.result() in (2, [first, last], [last, first])


def test_two_releases_that_declare_their_retention_do_not_deadlock(conn: Conn, connect: Open) -> None:
    def declared(*names: str) -> Any:
        return QUERIES.retention.declare("shop", [RetentionRule(name, "*", "*", 3600) for name in names])

    db.run(conn, declared("cancelled", "failed", "succeeded"))
    holder, old, new = connect(), connect(), connect()
    holder.execute("select from pgqueue.setting where name = 'retention.failed' for update")
    first = InThread(lambda: (db.run(old, declared("cancelled", "failed", "succeeded")), old.commit()))
    wait_blocked(conn, old, holder)
    second = InThread(lambda: (db.run(new, declared("succeeded", "cancelled")), new.commit()))
    wait_blocked(conn, new, old)
    holder.rollback()
    first.result()
    second.result()
    assert {rule.name for rule in db.run(conn, QUERIES.retention.rules()) if rule.set_by == "code of shop"} == {
        "succeeded", "cancelled",
    }  # fmt: skip


def test_a_result_that_expires_while_its_job_is_moved_to_its_partition_is_dropped_later(
    conn: Conn, connect: Open
) -> None:
    conn.execute(
        """insert into pgqueue.job_finished (id, task, queue, args, run_at, created_at, attempt, max_attempts, lease,
            state, result, finished_at)
        values (1, 't', 'q', '{}', now(), now(), 1, 1, 1, 'succeeded', '"secret"', '2020-01-01 12:00Z')"""
    )
    conn.execute("insert into pgqueue.result_expiry select id, finished_at, now() from pgqueue.job_finished")
    upkeep, worker = connect(), connect()
    upkeep.execute("create table pgqueue.job_finished_20200101 (like pgqueue.job_finished including all)")
    upkeep.execute(
        "with moved as (delete from pgqueue.job_finished_default returning *)"
        " insert into pgqueue.job_finished_20200101 select * from moved"
    )
    dropping = InThread(lambda: (db.run(worker, QUERIES.jobs.drop_expired_results(10)), worker.commit()))
    wait_blocked(conn, worker, upkeep)
    upkeep.commit()
    dropping.result()
    conn.execute(
        "alter table pgqueue.job_finished attach partition pgqueue.job_finished_20200101"
        " for values from ('2020-01-01Z') to ('2020-01-02Z')"
    )
    assert scalar(conn, "select result from pgqueue.job_finished") == "secret"
    assert db.run(conn, QUERIES.jobs.drop_expired_results(10)) == 1
    assert scalar(conn, "select result from pgqueue.job_finished") is None
    assert scalar(conn, "select count(*) from pgqueue.result_expiry") == 0
