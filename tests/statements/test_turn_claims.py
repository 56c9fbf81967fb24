"""Claims of metered jobs: exact limits under concurrency, rates, order, turns, and buckets that come back."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest

from pgqueue import db
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.queries.turns.full import FullLane
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, add_worker, wait_blocked
from tests.statements.turns import claim_turns, in_order, keyed, line, metered, rule, running

Open = Callable[..., Conn]
FAILED = Resolution("retry", "error", 0.0)


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture(autouse=True)
def worker(conn: Conn) -> None:
    """The worker that claims has a row."""


def test_a_claim_takes_as_many_as_the_bucket_has_room_for(conn: Conn) -> None:
    rule(conn, "r", max_running=3)
    flow = keyed("r/a")
    ids = metered(conn, flow, 5)
    assert [job.id for job in claim_turns(conn, [flow])] == ids[:3]
    assert running(conn, "r/a") == 3
    assert claim_turns(conn, [flow]) == []


def test_a_claimed_job_has_its_lane_its_attempt_and_its_transition(conn: Conn) -> None:
    flow = keyed("r")
    (job_id,) = metered(conn, flow)
    (job,) = claim_turns(conn, [flow])
    assert (job.id, job.lane, job.attempt, job.lease) == (job_id, flow.lane, 1, 1)
    moves = conn.execute("select from_state, to_state from pgqueue.transition where job_id = %s", (job_id,)).fetchall()
    assert moves == [("blocked", "running")]


def test_each_key_of_a_rule_has_its_own_room(conn: Conn) -> None:
    rule(conn, "r", max_running=1)
    a, b = keyed("r/a"), keyed("r/b")
    first, *_ = metered(conn, a, 3)
    second, *_ = metered(conn, b, 3)
    assert [job.id for job in claim_turns(conn, [a, b])] == [first, second]


def test_a_key_with_an_exception_has_that_room(conn: Conn) -> None:
    rule(conn, "r", max_running=1)
    conn.execute("insert into pgqueue.limit_key (rule, key, max_running) values ('r', 'a', 2)")
    a, b = keyed("r/a"), keyed("r/b")
    metered(conn, a, 3), metered(conn, b, 3)
    claim_turns(conn, [a, b])
    assert (running(conn, "r/a"), running(conn, "r/b")) == (2, 1)


def test_a_job_with_two_buckets_needs_room_in_both(conn: Conn) -> None:
    rule(conn, "all", max_running=3)
    rule(conn, "one", max_running=2)
    a, b = keyed("all", "one/a"), keyed("all", "one/b")
    metered(conn, a, 5), metered(conn, b, 5)
    jobs = claim_turns(conn, [a, b])
    assert Counter(job.lane for job in jobs) == {a.lane: 2, b.lane: 1}
    assert (running(conn, "all"), running(conn, "one/a"), running(conn, "one/b")) == (3, 2, 1)


def test_lanes_take_turns_within_a_claim(conn: Conn) -> None:
    a, b = keyed("r/a"), keyed("r/b")
    first, second = metered(conn, a, 5), metered(conn, b, 5)
    assert [job.id for job in claim_turns(conn, [a, b], 4)] == [first[0], second[0], first[1], second[1]]


def test_a_rule_with_no_room_lets_nothing_through_and_spends_no_attempt(conn: Conn) -> None:
    rule(conn, "r", max_running=0)
    flow = keyed("r")
    metered(conn, flow)
    assert claim_turns(conn, [flow]) == []
    assert scalar(conn, "select attempt + lease from pgqueue.job_live") == 0
    assert scalar(conn, "select count(*) from pgqueue.transition") == 0


def test_a_limit_below_what_runs_admits_nothing_until_enough_have_ended(conn: Conn) -> None:
    rule(conn, "r", max_running=3)
    flow = keyed("r")
    metered(conn, flow, 6)
    jobs = claim_turns(conn, [flow])
    conn.execute("update pgqueue.limit_rule set max_running = 1")
    db.run(conn, QUERIES.jobs.resolve([(job, PLAIN_SUCCESS) for job in jobs[:2]]))
    assert claim_turns(conn, [flow]) == []
    db.run(conn, QUERIES.jobs.resolve([(jobs[2], PLAIN_SUCCESS)]))
    assert len(claim_turns(conn, [flow])) == 1


def test_a_bucket_without_a_rule_has_no_limit_and_is_counted_all_the_same(conn: Conn) -> None:
    flow = keyed("gone")
    metered(conn, flow, 7)
    claim_turns(conn, [flow])
    assert running(conn, "gone") == 7


def test_a_bucket_that_was_not_made_admits_nothing(conn: Conn) -> None:
    flow = keyed("r")
    metered(conn, flow)
    conn.execute("delete from pgqueue.limit_use")
    assert claim_turns(conn, [flow]) == []


def test_what_is_claimed_ahead_of_slots_leaves_half_of_the_room(conn: Conn) -> None:
    rule(conn, "r", max_running=10)
    flow = keyed("r")
    metered(conn, flow, 20)
    assert len(claim_turns(conn, [flow], slots=0)) == 5
    assert len(claim_turns(conn, [flow], slots=4)) == 4


def test_a_claim_waits_for_another_one_and_counts_what_that_has_taken(conn: Conn, connect: Open) -> None:
    rule(conn, "r", max_running=3)
    flow = keyed("r")
    ids = metered(conn, flow, 9)
    a, b = connect(), connect()
    assert len(claim_turns(a, [flow], 2)) == 2
    second = InThread(lambda: claim_turns(b, [flow]))
    wait_blocked(conn, b, a)
    a.commit()
    taken = [job.id for job in second.result()]
    b.commit()
    assert taken == [ids[2]]
    assert running(conn, "r") == 3


def test_a_claim_that_is_rolled_back_has_taken_nothing(conn: Conn, connect: Open) -> None:
    rule(conn, "r", max_running=1)
    flow = keyed("r")
    metered(conn, flow, 2)
    a = connect()
    claim_turns(a, [flow])
    a.rollback()
    assert running(conn, "r") == 0
    assert len(claim_turns(conn, [flow])) == 1


def test_a_claim_waits_for_no_row_of_a_job(conn: Conn, connect: Open) -> None:
    flow = keyed("r")
    ids = metered(conn, flow, 2)
    holder, claimer = connect(), connect()
    holder.execute("select from pgqueue.job_live where id = %s for update", (ids[0],))
    claimer.execute("set local lock_timeout = '1ms'")
    assert [job.id for job in claim_turns(claimer, [flow])] == [ids[1]]


def test_two_claims_and_a_resolve_with_the_same_buckets_in_any_order_do_not_deadlock(conn: Conn, connect: Open) -> None:
    flows = [keyed("a/1", "b/1"), keyed("a/2", "b/1"), keyed("a/1", "b/2")]
    for flow in flows:
        metered(conn, flow, 300)
    seed = random.Random(5)

    def work() -> int:
        mine, done = connect(autocommit=True), 0
        for _ in range(60):
            order = seed.sample(flows, 3)
            jobs = claim_turns(mine, order, 5)
            done += len(db.run(mine, QUERIES.jobs.resolve([(job, PLAIN_SUCCESS) for job in jobs]))) if jobs else 0
        return done

    done = [thread.result() for thread in [InThread(work) for _ in range(4)]]
    assert sum(done) == scalar(conn, "select count(*) from pgqueue.job_finished")
    assert all(running(conn, name) == 0 for name in ("a/1", "a/2", "b/1", "b/2"))


EXCESS = """
select bucket, max(n) from (
    select b.bucket, sum(t.step) over (partition by b.bucket order by t.at, t.step) as n
    from (select job_id, at, 1 as step from pgqueue.transition where to_state = 'running'
          union all select job_id, at, -1 from pgqueue.transition where from_state = 'running') as t
    join pgqueue.job j on j.id = t.job_id
    cross join lateral jsonb_array_elements_text(j.headers -> '$flow' -> 'buckets') as b(bucket)) as x
group by bucket"""


def race(connect: Open, flows: list[object], rounds: int) -> None:
    """Let four connections claim and resolve in random batches."""
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        mine, rng = connect(autocommit=True), random.Random(number)
        barrier.wait()
        for _ in range(rounds):
            jobs = claim_turns(mine, rng.sample(flows, len(flows)), rng.randint(1, 6))  # type: ignore[arg-type]
            for job in jobs:
                ends = rng.choice([PLAIN_SUCCESS, FAILED, Resolution("release", "released", refund=True)])
                db.run(mine, QUERIES.jobs.resolve([(job, ends)]))

    for thread in [InThread(lambda n=n: work(n)) for n in range(4)]:  # type: ignore[misc]
        thread.result()


def test_no_limit_is_exceeded_by_four_connections_at_random(conn: Conn, connect: Open) -> None:
    rule(conn, "key", max_running=3)
    rule(conn, "all", max_running=6)
    flows = [keyed("all", f"key/{n}") for n in range(3)]
    for flow in flows:
        metered(conn, flow, 400)
    race(connect, [*flows], 60)
    most = dict(conn.execute(EXCESS).fetchall())
    assert scalar(conn, "select count(*) from pgqueue.transition where to_state = 'running'") > 300
    assert most["all"] <= 6
    assert max(most[f"key/{n}"] for n in range(3)) <= 3
    assert [running(conn, name) for name in most] == [0] * 4


def test_jobs_in_order_come_one_at_a_time_and_a_retry_keeps_its_place(conn: Conn) -> None:
    rule(conn, "o", kind="order", max_running=1)
    flow = in_order("o/1")
    first, second, _ = metered(conn, flow, 3)
    (job,) = claim_turns(conn, [flow])
    assert job.id == first
    assert claim_turns(conn, [flow]) == []
    db.run(conn, QUERIES.jobs.resolve([(job, Resolution("retry", "error", 60.0))]))
    assert claim_turns(conn, [flow]) == []
    conn.execute("update pgqueue.job_live set run_at = now() where id = %s", (first,))
    (job,) = claim_turns(conn, [flow])
    assert (job.id, job.attempt) == (first, 2)
    db.run(conn, QUERIES.jobs.resolve([(job, PLAIN_SUCCESS)]))
    assert [job.id for job in claim_turns(conn, [flow])] == [second]


def test_the_head_of_a_lane_in_order_that_somebody_has_locked_is_not_passed(conn: Conn, connect: Open) -> None:
    rule(conn, "o", kind="order", max_running=1)
    flow = in_order("o/1")
    first, _ = metered(conn, flow, 2)
    holder = connect()
    holder.execute("select from pgqueue.job_live where id = %s for update", (first,))
    assert claim_turns(conn, [flow]) == []
    holder.rollback()
    assert [job.id for job in claim_turns(conn, [flow])] == [first]


def test_order_holds_whatever_the_connections_do(conn: Conn, connect: Open) -> None:
    rule(conn, "o", kind="order", max_running=1)
    flows = [in_order(f"o/{n}") for n in range(3)]
    for flow in flows:
        metered(conn, flow, 60)
    race(connect, [*flows], 60)
    assert set(dict(conn.execute(EXCESS).fetchall()).values()) == {1}
    passed = """
        select count(*) from pgqueue.job j join pgqueue.transition t on t.job_id = j.id and t.to_state = 'running'
        where exists (select from pgqueue.job k
                      where k.headers -> '$flow' ->> 'order' = j.headers -> '$flow' ->> 'order' and k.id < j.id
                      and (k.finished_at is null or k.finished_at > t.at))"""
    assert scalar(conn, passed) == 0


def test_a_rate_admits_its_burst_and_then_one_each_step(conn: Conn) -> None:
    rule(conn, "r", rate_count=10, rate_seconds=60.0, rate_burst=3)
    flow = keyed("r")
    metered(conn, flow, 9)
    assert len(claim_turns(conn, [flow])) == 3
    assert claim_turns(conn, [flow]) == []
    # 8 = 10 - 3 + 1 are sustained in a minute: one each 7.5 seconds.
    due = scalar(conn, "select tat - now() from pgqueue.limit_use order by version desc limit 1")
    assert timedelta(seconds=22) < due <= timedelta(seconds=22.5)
    conn.execute("update pgqueue.limit_use set tat = now() + interval '14.9 seconds'")
    assert len(claim_turns(conn, [flow])) == 1


def test_a_rate_that_is_not_strict_sustains_its_whole_number(conn: Conn) -> None:
    rule(conn, "r", rate_count=60, rate_seconds=60.0, rate_strict=False)
    flow = keyed("r")
    metered(conn, flow, 70)
    assert len(claim_turns(conn, [flow])) == 60
    conn.execute("update pgqueue.limit_use set tat = tat - interval '2.5 seconds'")
    assert len(claim_turns(conn, [flow])) == 2


def test_nothing_is_claimed_ahead_from_a_rate(conn: Conn) -> None:
    rule(conn, "r", rate_count=10, rate_seconds=60.0, rate_burst=10)
    flow = keyed("r")
    metered(conn, flow, 9)
    assert claim_turns(conn, [flow], slots=0) == []
    assert len(claim_turns(conn, [flow], slots=2)) == 2


def test_a_rate_counts_from_the_lock_on_and_not_from_the_beginning_of_a_claim_that_waited(
    conn: Conn, connect: Open
) -> None:
    rule(conn, "r", rate_count=1, rate_seconds=0.5)
    flow = keyed("r")
    metered(conn, flow, 2)
    holder, claimer = connect(), connect(autocommit=True)
    holder.execute("select from pgqueue.limit_use for update")
    waiting = InThread(lambda: claim_turns(claimer, [flow]))
    wait_blocked(conn, claimer, holder)
    holder.execute("select pg_catalog.pg_sleep(0.6)")
    holder.commit()
    assert len(waiting.result()) == 1
    assert claim_turns(conn, [flow]) == []


@pytest.mark.parametrize("table", ["limit_rule", "limit_key"])
def test_a_paused_rule_or_key_gives_nothing_until_its_time(conn: Conn, table: str) -> None:
    rule(conn, "r")
    conn.execute("insert into pgqueue.limit_key (rule, key) values ('r', 'a')")
    flow = keyed("r/a")
    metered(conn, flow)
    conn.execute(f"update pgqueue.{table} set paused_at = now(), paused_until = now() + interval '1 hour'")
    assert claim_turns(conn, [flow]) == []
    (seen,) = db.run(conn, QUERIES.turns.look([("default", -(2**63))], 10))
    assert seen.opens_in == pytest.approx(3600, abs=5)
    conn.execute(f"update pgqueue.{table} set paused_until = now()")
    assert len(claim_turns(conn, [flow])) == 1


def test_a_paused_queue_gives_no_metered_jobs(conn: Conn) -> None:
    flow = keyed("r")
    metered(conn, flow)
    conn.execute("insert into pgqueue.queue (name, paused_at) values ('default', now())")
    assert claim_turns(conn, [flow]) == []


def test_a_worker_that_is_lost_gets_no_metered_jobs(conn: Conn) -> None:
    flow = keyed("r")
    metered(conn, flow)
    assert claim_turns(conn, [flow], worker=add_worker(conn, lost=True)) == []


@pytest.mark.parametrize(
    "ends",
    [PLAIN_SUCCESS, Resolution("succeed", result="1"), FAILED, Resolution("dead_letter", "error"),
     Resolution("snooze", "later", 1.0, refund=True), Resolution("withdraw", "no"),
     Resolution("release", "released", refund=True), Resolution("park", "unknown task", refund=True)],
)  # fmt: skip
def test_each_end_of_a_job_gives_its_buckets_back(conn: Conn, ends: Resolution) -> None:
    flow = keyed("a", "b/1")
    metered(conn, flow, 2)
    jobs = claim_turns(conn, [flow])
    assert db.run(conn, QUERIES.jobs.resolve([(jobs[0], ends)])) == {jobs[0].id}
    assert (running(conn, "a"), running(conn, "b/1")) == (1, 1)
    assert db.run(conn, QUERIES.jobs.resolve([(jobs[0], ends)])) == set()
    assert (running(conn, "a"), running(conn, "b/1")) == (1, 1)


def test_a_metered_job_goes_back_to_where_it_waits_for_its_turn(conn: Conn) -> None:
    flow = keyed("a")
    metered(conn, flow, 3)
    jobs = claim_turns(conn, [flow])
    ends = [FAILED, Resolution("snooze", "s", 0.0, refund=True), Resolution("park", "unknown task", refund=True)]
    db.run(conn, QUERIES.jobs.resolve(list(zip(jobs, ends, strict=True))))
    rows = conn.execute("select state, waits_for, lane, attempt, run_at > now() from pgqueue.job_live order by id")
    waits = ("blocked", "turn", flow.lane)
    assert rows.fetchall() == [(*waits, 1, False), (*waits, 0, False), (*waits, 0, True)]
    moves = "select array_agg(distinct to_state) from pgqueue.transition where from_state = 'running'"
    assert scalar(conn, moves) == ["blocked"]


def test_the_statement_for_plain_jobs_does_not_touch_a_metered_one(conn: Conn) -> None:
    flow = keyed("a")
    metered(conn, flow)
    (job,) = claim_turns(conn, [flow])
    job.lane = None
    for ends in (PLAIN_SUCCESS, FAILED):
        assert db.run(conn, QUERIES.jobs.resolve([(job, ends)])) == set()
    assert running(conn, "a") == 1


def test_jobs_of_a_dead_worker_give_their_buckets_back(conn: Conn) -> None:
    flow = keyed("a")
    metered(conn, flow, 3)
    conn.execute("update pgqueue.job_live set max_attempts = 1 where id = (select min(id) from pgqueue.job_live)")
    lost = add_worker(conn)
    claim_turns(conn, [flow], worker=lost)
    conn.execute("update pgqueue.worker set lost_at = now()")
    rescued = db.run(conn, QUERIES.jobs.rescue(None))
    assert Counter(job.state for job in rescued) == {"failed": 1, "blocked": 2}
    assert running(conn, "a") == 0
    assert len(claim_turns(conn, [flow])) == 2


def test_strays_give_their_buckets_back(conn: Conn) -> None:
    flow = keyed("a")
    metered(conn, flow, 3)
    jobs = claim_turns(conn, [flow])
    conn.execute("update pgqueue.job_live set cancel_requested_at = now() where id = %s", (jobs[2].id,))
    released = db.run(conn, QUERIES.jobs.release_strays(jobs[0].worker_id, [jobs[0].id]))
    assert sorted(released) == [jobs[1].id, jobs[2].id]
    assert running(conn, "a") == 1
    assert db.run(conn, QUERIES.jobs.release_strays(jobs[0].worker_id, [jobs[0].id])) == []
    assert running(conn, "a") == 1


def test_rate_limited_closes_the_named_bucket(conn: Conn) -> None:
    a, b = keyed("r/a", "s"), keyed("r/b", "s")
    metered(conn, a, 2), metered(conn, b, 1)
    (job,) = claim_turns(conn, [a], 1)
    db.run(conn, QUERIES.jobs.resolve([(job, Resolution("snooze", "rate limited", 30.0, True, closes=("r/a",)))]))
    assert [job.lane for job in claim_turns(conn, [a, b])] == [b.lane]
    seen = {lane.number: lane for lane in db.run(conn, QUERIES.turns.look([("default", -(2**63))], 10))}
    assert seen[a.lane].opens_in == pytest.approx(30, abs=2)


def breaker(conn: Conn) -> None:
    rule(conn, "r", breaker_failures=3, breaker_seconds=60.0, breaker_cooldown=10.0)


def opened(conn: Conn) -> tuple[bool, int]:
    """Whether the bucket is closed now, and how often in a row the breaker has opened."""
    query = "select closed_until > now(), opened from pgqueue.limit_freed order by version desc limit 1"
    closed, times = conn.execute(query).fetchall()[0]
    return bool(closed), times


def pass_cooldown(conn: Conn) -> None:
    conn.execute("update pgqueue.limit_freed set closed_until = now() where closed_until is not null")


def test_a_breaker_opens_after_its_failures_lets_one_probe_and_closes_after_its_success(conn: Conn) -> None:
    breaker(conn)
    flow = keyed("r/a")
    metered(conn, flow, 9)
    jobs = claim_turns(conn, [flow], 4)
    db.run(conn, QUERIES.jobs.resolve([(job, FAILED) for job in jobs[:2]]))
    assert opened(conn) == (False, 0)
    db.run(conn, QUERIES.jobs.resolve([(jobs[2], FAILED)]))
    assert opened(conn) == (True, 1)
    assert claim_turns(conn, [flow]) == []
    db.run(conn, QUERIES.jobs.resolve([(jobs[3], PLAIN_SUCCESS)]))  # it began before
    assert opened(conn) == (True, 1)
    pass_cooldown(conn)
    (probe,) = claim_turns(conn, [flow])
    assert claim_turns(conn, [flow]) == []
    db.run(conn, QUERIES.jobs.resolve([(probe, PLAIN_SUCCESS)]))
    assert opened(conn) == (False, 0)
    assert len(claim_turns(conn, [flow])) == 7


def test_a_probe_that_fails_closes_the_bucket_for_twice_as_long(conn: Conn) -> None:
    breaker(conn)
    flow = keyed("r/a")
    metered(conn, flow, 9)
    db.run(conn, QUERIES.jobs.resolve([(job, FAILED) for job in claim_turns(conn, [flow], 3)]))
    for times in (2, 3):
        pass_cooldown(conn)
        db.run(conn, QUERIES.jobs.resolve([(job, FAILED) for job in claim_turns(conn, [flow])]))
        assert opened(conn) == (True, times)
        closed = scalar(conn, "select closed_until - now() from pgqueue.limit_freed order by version desc limit 1")
        assert timedelta(seconds=10 * 2 ** (times - 1) - 2) < closed <= timedelta(seconds=10 * 2 ** (times - 1))


def test_failures_beyond_the_window_and_after_a_success_do_not_open_a_breaker(conn: Conn) -> None:
    breaker(conn)
    flow = keyed("r/a")
    metered(conn, flow, 9)

    def fail(jobs: int) -> None:
        db.run(conn, QUERIES.jobs.resolve([(job, FAILED) for job in claim_turns(conn, [flow], jobs)]))

    fail(2)
    conn.execute("update pgqueue.limit_freed set failing_since = now() - interval '61 seconds'")
    fail(2)
    assert opened(conn) == (False, 0)
    (job,) = claim_turns(conn, [flow], 1)
    db.run(conn, QUERIES.jobs.resolve([(job, PLAIN_SUCCESS)]))
    fail(2)
    assert opened(conn) == (False, 0)
    fail(1)
    assert opened(conn) == (True, 1)


def test_a_snooze_is_no_failure_and_a_crash_is_one(conn: Conn) -> None:
    rule(conn, "r", breaker_failures=1, breaker_seconds=60.0, breaker_cooldown=10.0)
    flow = keyed("r")
    metered(conn, flow, 2)
    (job,) = claim_turns(conn, [flow], 1)
    db.run(conn, QUERIES.jobs.resolve([(job, Resolution("snooze", "s", 0.0, refund=True))]))
    assert opened(conn) == (False, 0)
    claim_turns(conn, [flow], 1, worker=add_worker(conn, lost=False))
    conn.execute("update pgqueue.worker set lost_at = now()")
    db.run(conn, QUERIES.jobs.rescue(None))
    assert opened(conn) == (True, 1)


def test_a_look_tells_of_each_lane_whether_it_is_due_and_has_room(conn: Conn) -> None:
    rule(conn, "r", max_running=1)
    full, free, later = keyed("r/a"), keyed("r/b"), keyed("r/c")
    metered(conn, full, 2), metered(conn, free, 2, priority=3), metered(conn, later, 1, delay=60)
    claim_turns(conn, [full])
    seen = {lane.number: lane for lane in db.run(conn, QUERIES.turns.look([("default", -(2**63))], 10))}
    assert (seen[full.lane].room, seen[full.lane].opens_in) == (0, float("inf"))
    assert (seen[free.lane].room, seen[free.lane].opens_in, seen[free.lane].priority) == (1, None, 3)
    assert seen[free.lane].due_in <= 0 < 50 < seen[later.lane].due_in < 61


def test_a_look_goes_on_where_the_last_one_has_stopped_and_tells_of_missing_buckets(conn: Conn) -> None:
    flows = sorted((keyed(f"r/{n}") for n in range(5)), key=lambda flow: flow.lane)
    for flow in flows:
        metered(conn, flow)
    conn.execute("delete from pgqueue.limit_use where name = %s", (flows[3].buckets[0],))
    first = db.run(conn, QUERIES.turns.look([("default", -(2**63))], 3))
    rest = db.run(conn, QUERIES.turns.look([("default", first[-1].number)], 3))
    assert [lane.number for lane in [*first, *rest]] == [flow.lane for flow in flows]
    assert [lane.room is None for lane in rest] == [True, False]


def test_two_that_make_the_same_bucket_make_one_counter(conn: Conn, connect: Open) -> None:
    a, b = connect(), connect()
    db.run(a, QUERIES.turns.make_buckets(["r/1", "r/2"]))
    second = InThread(lambda: db.run(b, QUERIES.turns.make_buckets(["r/2", "r/1"])))
    wait_blocked(conn, b, a)
    a.commit()
    second.result()
    b.commit()
    assert scalar(conn, "select count(*) from pgqueue.limit_use") == 2


def test_a_bucket_that_was_used_has_no_second_counter_after_making_it_again(conn: Conn) -> None:
    flow = keyed("r")
    metered(conn, flow, 3)
    claim_turns(conn, [flow], 1)
    db.run(conn, QUERIES.turns.make_buckets(["r"]))
    assert scalar(conn, "select count(*) from pgqueue.limit_use") == 1


def test_idle_buckets_are_dropped_and_made_again(conn: Conn) -> None:
    idle, busy, fresh = keyed("r/idle"), keyed("r/busy"), keyed("r/fresh")
    for flow in (idle, busy, fresh):
        metered(conn, flow, 2)
        jobs = claim_turns(conn, [flow], 1)
        if flow is not busy:
            db.run(conn, QUERIES.jobs.resolve([(jobs[0], PLAIN_SUCCESS)]))
    conn.execute("update pgqueue.limit_use set tat = now() - interval '2 hours' where name <> 'r/fresh'")
    assert db.run(conn, QUERIES.turns.drop_idle_buckets(10)) == 1
    assert scalar(conn, "select array_agg(name order by name) from pgqueue.limit_bucket") == ["r/busy", "r/fresh"]
    assert claim_turns(conn, [idle]) == []
    db.run(conn, QUERIES.turns.make_buckets(["r/idle"]))
    assert len(claim_turns(conn, [idle])) == 1


def test_a_counter_that_somebody_has_falsified_is_found_and_put_right(conn: Conn) -> None:
    flow, other = keyed("r/a"), keyed("r/b")
    metered(conn, flow, 3), metered(conn, other, 3)
    claim_turns(conn, [flow, other], 4)
    assert db.run(conn, QUERIES.turns.find_drift(10)) == []
    conn.execute("delete from pgqueue.job_live where state = 'running' and lane = %s", (flow.lane,))
    assert db.run(conn, QUERIES.turns.find_drift(10)) == ["r/a"]
    with conn.transaction():
        db.run(conn, QUERIES.turns.lock_bucket("r/a"))
        drift = db.run(conn, QUERIES.turns.reconcile("r/a"))
    assert drift == (2, 0)
    assert (running(conn, "r/a"), running(conn, "r/b")) == (0, 2)
    with conn.transaction():
        db.run(conn, QUERIES.turns.lock_bucket("r/b"))
        assert db.run(conn, QUERIES.turns.reconcile("r/b")) is None


def test_a_flow_that_another_lane_has_is_not_claimed_by_a_collision(conn: Conn) -> None:
    rule(conn, "r", max_running=1)
    flow = keyed("r/a")
    metered(conn, flow, 2)
    wrong = line(keyed("r/b"))._replace(lane=flow.lane)
    db.run(conn, QUERIES.turns.make_buckets(["r/b"]))
    worker = add_worker(conn)
    assert db.run(conn, QUERIES.turns.claim(worker, "default", [wrong], room=5, slots=5)).jobs == []


DEAD = Resolution("dead_letter", "exhausted")
IN_ORDER = in_order("o/1")


def stopping(conn: Conn, flow: Flow = IN_ORDER) -> tuple[Flow, list[int]]:
    """Let the first of three jobs in order become a dead letter that holds up the others."""
    rule(conn, "o", kind="order", max_running=1, on_dead="stop")
    ids = metered(conn, flow, 3)
    (job,) = claim_turns(conn, [flow])
    db.run(conn, QUERIES.jobs.resolve([(job, DEAD)]))
    return flow, ids


def test_a_dead_letter_in_order_lets_the_next_job_go(conn: Conn) -> None:
    rule(conn, "o", kind="order", max_running=1)
    flow = in_order("o/1")
    metered(conn, flow, 2)
    (job,) = claim_turns(conn, [flow])
    db.run(conn, QUERIES.jobs.resolve([(job, DEAD)]))
    assert len(claim_turns(conn, [flow])) == 1


def test_a_dead_letter_stops_its_key_until_it_is_redriven_and_comes_first_then(conn: Conn) -> None:
    flow, ids = stopping(conn)
    other = in_order("o/2")
    metered(conn, other)
    assert [job.lane for job in claim_turns(conn, [flow, other])] == [other.lane]
    assert conn.execute("select rule, key, paused_by, paused_why from pgqueue.limit_key").fetchall() == [
        ("o", "1", "pgqueue", f"dead letter {ids[0]}")
    ]
    db.run(conn, QUERIES.dead.redrive(0, [ids[0]], "redriven", {}))
    assert [job.id for job in claim_turns(conn, [flow])] == [ids[0]]


@pytest.mark.parametrize("flow", [in_order("o/1"), keyed("o/1")], ids=["wait", "pass"])
def test_a_discarded_dead_letter_lets_its_key_go_on(conn: Conn, flow: Flow) -> None:
    _, ids = stopping(conn, flow)
    assert claim_turns(conn, [flow]) == []
    db.run(conn, QUERIES.dead.discard([ids[0]], "discarded"))
    assert [job.id for job in claim_turns(conn, [flow])] == [ids[1]]


def test_a_dead_letter_resumes_no_pause_that_a_person_has_made_since(conn: Conn) -> None:
    flow, ids = stopping(conn)
    conn.execute("update pgqueue.limit_key set paused_by = 'alice', paused_why = 'import'")
    db.run(conn, QUERIES.dead.discard([ids[0]], "discarded"))
    assert claim_turns(conn, [flow]) == []


def test_a_crash_for_good_stops_a_key_as_well(conn: Conn) -> None:
    rule(conn, "o", kind="order", max_running=1, on_dead="stop")
    flow = in_order("o/1")
    first, second = metered(conn, flow, 2)
    conn.execute("update pgqueue.job_live set max_attempts = 1")
    claim_turns(conn, [flow], worker=add_worker(conn))
    conn.execute("update pgqueue.worker set lost_at = now()")
    assert [job.state for job in db.run(conn, QUERIES.jobs.rescue(None))] == ["failed"]
    assert claim_turns(conn, [flow]) == []
    db.run(conn, QUERIES.dead.discard([first], "discarded"))
    assert [job.id for job in claim_turns(conn, [flow])] == [second]


@pytest.mark.parametrize("flow", [in_order("o/1"), keyed("o/1")], ids=["wait", "pass"])
@pytest.mark.parametrize("end", [DEAD, Resolution("retry", "error", 0.0)], ids=["dead letter", "retry"])
def test_a_claim_from_before_an_end_takes_nothing_behind_it(
    conn: Conn, connect: Open, flow: Flow, end: Resolution
) -> None:
    rule(conn, "o", kind="order", max_running=1, on_dead="stop")
    metered(conn, flow, 2)
    (job,) = claim_turns(conn, [flow])
    holder, late = connect(), connect()
    holder.execute("select from pgqueue.limit_use for update")
    claim = InThread(lambda: claim_turns(late, [flow]))
    wait_blocked(conn, late, holder)  # it has its snapshot
    db.run(conn, QUERIES.jobs.resolve([(job, end)]))
    holder.commit()
    assert claim.result() == []
    late.commit()
    again = claim_turns(conn, [flow])
    assert len(again) == (0 if end is DEAD else 1)
    if end is not DEAD and flow.in_order:
        assert again[0].id == job.id


def test_a_claim_waits_for_no_end_and_an_end_for_no_claim(conn: Conn, connect: Open) -> None:
    rule(conn, "r", max_running=2)
    flow = keyed("r")
    metered(conn, flow, 5)
    first, second = claim_turns(conn, [flow])
    ending, claiming = connect(), connect()
    db.run(ending, QUERIES.jobs.resolve([(first, PLAIN_SUCCESS)]))
    assert claim_turns(claiming, [flow]) == []  # at once: the place is not given back before the commit
    ending.commit()
    assert len(claim_turns(claiming, [flow])) == 1
    db.run(ending, QUERIES.jobs.resolve([(second, PLAIN_SUCCESS)]))
    ending.commit()
    claiming.commit()
    assert running(conn, "r") == 1


def test_a_limit_that_others_end_jobs_of_all_the_time_is_never_exceeded_by_claims_that_wait(
    conn: Conn, connect: Open
) -> None:
    rule(conn, "r", max_running=2)
    flow = keyed("r")
    metered(conn, flow, 9)
    first, _ = claim_turns(conn, [flow])
    holder, late = connect(), connect()
    holder.execute("select from pgqueue.limit_use for update")
    claim = InThread(lambda: claim_turns(late, [flow]))
    wait_blocked(conn, late, holder)
    db.run(conn, QUERIES.jobs.resolve([(first, PLAIN_SUCCESS)]))
    holder.commit()
    assert claim.result() == []  # too few: its snapshot does not show the end
    late.commit()
    assert len(claim_turns(conn, [flow])) == 1
    assert running(conn, "r") == 2


def test_a_lane_in_order_does_not_wait_for_a_limit_that_others_share_to_rest(conn: Conn, connect: Open) -> None:
    rule(conn, "o", kind="order", max_running=1)
    rule(conn, "s", max_running=5)
    flow, others = Flow(("o/1", "s"), order="o/1"), keyed("s")
    first, _ = metered(conn, flow, 2)
    metered(conn, others)
    a, b = connect(), connect()
    assert len(claim_turns(a, [others])) == 1
    second = InThread(lambda: claim_turns(b, [flow]))
    wait_blocked(conn, b, a)
    a.commit()
    assert [job.id for job in second.result()] == [first]


def test_a_full_bucket_skips_no_job_of_its_order_that_does_not_need_it(conn: Conn) -> None:
    rule(conn, "o", kind="order", max_running=1)
    rule(conn, "s", max_running=1, on_full="skip")
    metered(conn, keyed("s/1"))
    claim_turns(conn, [keyed("s/1")])
    flows = [Flow(("o/1", f"s/{key}"), order="o/1") for key in (1, 2)]
    first, second = (metered(conn, flow)[0] for flow in flows)
    full = FullLane("default", flows[0].lane, 0, "s/1", "skip")
    assert [job.id for job in db.run(conn, QUERIES.turns.cancel_behind(full, 10))] == [first]
    assert [job.id for job in claim_turns(conn, [flows[1]])] == [second]


def test_whoever_makes_a_bucket_learns_whether_each_worker_keeps_its_rate_for_itself(conn: Conn) -> None:
    rule(conn, "own", rate_count=1, rate_seconds=60, scope="worker")
    rule(conn, "all", rate_count=1, rate_seconds=60)
    assert db.run(conn, QUERIES.turns.make_buckets(["all/1", "own/1", "own/2", "none"])) == ["own/1", "own/2"]
    assert scalar(conn, "select count(*) from pgqueue.limit_use") == 4
