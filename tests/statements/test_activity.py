"""Activity in SQL: what workers counted is read as rates, error shares and percentiles."""

import random
import uuid
from datetime import UTC, datetime, timedelta
from statistics import quantiles

import pytest

from pgqueue import db
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.tally import Count, Key, bucket_of
from pgqueue.queries.activity import QueueRate
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, insert_job, insert_metered

WORKER = uuid.UUID(int=1)


def count(ran: list[float], waited: list[float]) -> Count:
    counted = Count(len(ran), sum(ran), sum(waited))
    for seconds, buckets in [(ran, counted.run_counts), (waited, counted.wait_counts)]:
        for one in seconds:
            buckets[bucket_of(one)] += 1
    return counted


def record(conn: Conn, *counts: tuple[Key, Count], seconds_ago: float = 0.0) -> None:
    db.run(conn, QUERIES.activity.record(WORKER, counts))
    conn.execute("update pgqueue.activity set at = at - make_interval(secs => %s) where at = now()", [seconds_ago])


def test_percentiles_are_within_a_fifth(conn: Conn) -> None:
    rng = random.Random(5)
    ran = [rng.lognormvariate(-4, 1.5) for _ in range(5000)]
    waited = [rng.expovariate(3) for _ in range(5000)]
    with conn.transaction():
        for part in range(5):  # as five workers, or five flushes
            chosen = slice(part * 1000, (part + 1) * 1000)
            record(conn, (("t", "q", "succeed"), count(ran[chosen], waited[chosen])))
    row = conn.execute(
        "select run_p50, run_p95, run_p99, wait_p50, wait_p95, wait_p99 from pgqueue.task_health where task = 't'"
    ).fetchone()
    assert row is not None
    exact = [quantiles(values, n=100)[p - 1] for values in (ran, waited) for p in (50, 95, 99)]
    assert [seen / truth for seen, truth in zip(row, exact, strict=True)] == pytest.approx([1.0] * 6, abs=0.2)


def test_health_of_a_task_has_its_share_of_errors_and_its_last_success(conn: Conn) -> None:
    with conn.transaction():
        record(
            conn,
            (("t", "q", "succeed"), count([0.1] * 6, [0.1] * 6)),
            (("t", "p", "retry"), count([0.1] * 3, [0.1] * 3)),
            (("t", "q", "dead_letter"), count([0.1], [0.1])),
            (("t", "q", "release"), Count(5)),
        )
        record(conn, (("u", "q", "retry"), count([0.1], [0.1])))
    with conn.transaction():
        record(conn, (("u", "q", "succeed"), count([0.1], [0.1])), seconds_ago=7200)
    health = "select task, runs, succeeded, retried, failed, error_share from pgqueue.task_health order by task"
    assert conn.execute(health).fetchall() == [("t", 10, 6, 3, 1, 0.4), ("u", 1, 0, 1, 0, 1.0)]
    age = "select extract(epoch from now() - last_success)::int from pgqueue.task_health where task = 'u'"
    assert scalar(conn, age) == 7200


def test_rates_of_a_queue_are_counts_by_minute(conn: Conn) -> None:
    minute = "date_trunc('minute', now()) - interval"
    conn.execute(
        "insert into pgqueue.activity values"
        f" ({minute} '1 minute', gen_random_uuid(), 't', 'q', 'succeeded', 4, 1, 2, '[3:3]={{4}}', '{{}}'),"
        f" ({minute} '1 second', gen_random_uuid(), 'u', 'q', 'failed', 2, 1, 2, '{{}}', '{{}}')".encode()
    )
    assert conn.execute("select jobs, succeeded, failed, other, run_seconds from pgqueue.queue_rate").fetchall() == [
        (6, 4, 2, 0, 2.0)
    ]


def rates(conn: Conn, most: int = 100) -> dict[str, tuple[int, int | None]]:
    """Return how many attempts ended and how many jobs became due in the last minute, by queue."""
    found = db.run(conn, QUERIES.activity.rates(most))
    due = {rate.queue: rate.due_per_second for rate in found}
    return {
        r.queue: (round(r.ended_per_second * 60), None if (d := due[r.queue]) is None else round(d * 60)) for r in found
    }


def test_what_became_due_is_what_waits_and_what_was_taken_since(conn: Conn) -> None:
    for seconds in (10, 20, 30, 100, 200, -60):
        conn.execute("insert into pgqueue.job_live (task, queue, priority, run_at)"
                     " values ('t', 'q', %s, now() - make_interval(secs => %s))", [seconds % 3, seconds])  # fmt: skip
    with conn.transaction():
        record(conn, (("t", "q", "succeed"), count([0.1] * 5, [0.5] * 4 + [500.0])), seconds_ago=5)
        record(conn, (("t", "q", "retry"), count([0.1] * 2, [0.5, 30.0])), seconds_ago=40)  # 30 s before: too long ago
        record(conn, (("t", "q", "release"), Count(9)))
    assert rates(conn) == {"q": (7, 3 + 4 + 1)}
    assert rates(conn, most=2) == {"q": (7, None)}


def test_metered_jobs_became_due_that_wait_in_whatever_lane(conn: Conn) -> None:
    in_order = Flow(("o/7",), order="o/7")
    for seconds in (10, 20, 30, 100, -60):
        due = datetime.now(UTC) - timedelta(seconds=seconds)
        insert_metered(conn, Flow((f"r/{seconds % 20}",)), queue="q", run_at=due, priority=seconds % 3)
        insert_metered(conn, in_order, queue="q", run_at=due)
        insert_metered(conn, in_order, queue="ordered", run_at=due)
    insert_metered(conn, Flow(("r/1",)), queue="later", run_at=datetime.now(UTC) + timedelta(hours=1))
    assert db.run(conn, QUERIES.activity.due_turns(100)) == {"q": 6, "ordered": 3, "later": 0}
    assert db.run(conn, QUERIES.activity.due_turns(4)) == {"q": None, "ordered": None, "later": 0}
    assert QueueRate("q", 10.0, 5.0).with_turns({"q": 60}).due_per_second == 6.0
    assert QueueRate("q", 10.0, 5.0).with_turns({"q": None}).due_per_second is None
    assert QueueRate("p", 10.0, 5.0).with_turns({"q": None}).due_per_second == 5.0


def test_a_queue_that_only_grows_or_only_runs_has_rates_too(conn: Conn) -> None:
    insert_job(conn, queue="grows")
    record(conn, (("t", "runs", "succeed"), count([0.1], [0.1])))
    assert rates(conn) == {"grows": (0, 1), "runs": (1, 1)}


def test_a_queue_is_drained_by_the_difference_of_its_rates() -> None:
    assert QueueRate("q", 10.0, 5.0).drained_in(100) == 20.0
    assert QueueRate("q", 5.0, 5.0).drained_in(1) is None
    assert QueueRate("q", 5.0, None).drained_in(1) is None
