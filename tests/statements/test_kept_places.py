"""Places of a limit that jobs keep while they wait: counted at every instant, given back with the row of the job."""

import json
from collections.abc import Sequence
from typing import Any, LiteralString

import pytest

from pgqueue import db
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.queries.jobs.change import Edit, EditedJob
from pgqueue.queries.turns.claim import Line
from pgqueue.queries.turns.full import FullLane
from pgqueue.queries.turns.kept import KeptPlace
from tests.conftest import scalar
from tests.harness import QUERIES, WORKER, Conn, InThread, add_worker, wait_blocked
from tests.statements.graphs import graph, insert
from tests.statements.turns import claim_turns, keyed, metered, rule, running

SNOOZED = Resolution("snooze", "asleep", 0.0, refund=True)
BOTH = keyed("line", "stripe")  # `line` counts jobs that wait, `stripe` does not
LINE = keyed("line")
BREAKER: LiteralString = "breaker_failures = 1, breaker_seconds = 60, breaker_cooldown = 1"
ROW: LiteralString = "select lane, state, lease from pgqueue.job_live where id = %s"
LOCKED: LiteralString = """select count(*) from pg_locks
where pid = pg_backend_pid() and relation = 'pgqueue.worker'::regclass and mode = 'ShareRowExclusiveLock'"""
KEPT: LiteralString = "select array_agg(bucket order by bucket) from pgqueue.limit_hold where job_id = %s"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def ruled(conn: Conn) -> Conn:
    """A database whose limit `line` counts jobs that wait, and in which no older process lives."""
    add_worker(conn)
    rule(conn, "line", max_running=1, while_waiting=True)
    rule(conn, "stripe", max_running=1)
    assert scalar(conn, "select pgqueue.keep_places()") is None
    return conn


def suspend(conn: Conn, *jobs: ClaimedJob) -> None:
    """Let claimed jobs wait, as a worker does: in one transaction."""
    with conn.transaction():
        db.run(conn, QUERIES.jobs.resolve([(job, SNOOZED) for job in jobs]))
        db.run(conn, QUERIES.steps.put_to_sleep([(job, None) for job in jobs]))


def wake(conn: Conn, *jobs: int) -> None:
    conn.execute("update pgqueue.job_live set run_at = now() where id = any(%s)", (list(jobs),))


def looked(conn: Conn) -> list[Any]:
    return db.run(conn, QUERIES.turns.look([("default", -(2**63))], 100))


def go_on(conn: Conn) -> Sequence[ClaimedJob]:
    """Claim what has kept places and has room for the others, as a worker does that has looked."""
    found = [(lane, json.loads(lane.flow)) for lane in looked(conn)]
    lines = [
        Line(lane.number, lane.priority, json.dumps(flow["buckets"]), 100, kept=json.dumps(flow["kept"]))
        for lane, flow in found
        if "kept" in flow
    ]
    if not lines:
        return []
    return db.run(conn, QUERIES.turns.claim(WORKER, "default", lines, room=100, slots=100)).jobs


def test_a_job_that_waits_keeps_its_place_and_goes_on_with_it(ruled: Conn) -> None:
    first, second = metered(ruled, LINE, jobs=2)
    (job,) = claim_turns(ruled, [LINE])
    suspend(ruled, job)

    assert running(ruled, "line") == 1
    assert claim_turns(ruled, [LINE]) == []
    wake(ruled, first)
    (again,) = go_on(ruled)
    assert (again.id, running(ruled, "line"), scalar(ruled, KEPT, first)) == (first, 1, None)
    assert claim_turns(ruled, [LINE]) == []
    db.run(ruled, QUERIES.jobs.resolve([(again, PLAIN_SUCCESS)]))
    assert [next_one.id for next_one in claim_turns(ruled, [LINE])] == [second]


def test_only_the_limits_that_say_so_count_a_job_that_waits(ruled: Conn) -> None:
    (first,) = metered(ruled, BOTH)
    other = keyed("stripe")
    metered(ruled, other)
    suspend(ruled, *claim_turns(ruled, [BOTH]))

    assert (running(ruled, "line"), running(ruled, "stripe")) == (1, 0)
    (between,) = claim_turns(ruled, [other])
    wake(ruled, first)
    assert go_on(ruled) == []  # it has kept `line`, and waits for its turn in `stripe`
    db.run(ruled, QUERIES.jobs.resolve([(between, PLAIN_SUCCESS)]))
    assert [job.id for job in go_on(ruled)] == [first]
    assert (running(ruled, "line"), running(ruled, "stripe")) == (1, 1)


def test_of_two_that_keep_what_the_other_one_needs_neither_waits_for_ever(ruled: Conn) -> None:
    """Rules that change while jobs wait tie that knot; who keeps what no rule asks for any more gives it back."""
    (one,) = metered(ruled, BOTH)
    suspend(ruled, *claim_turns(ruled, [BOTH]))
    ruled.execute("update pgqueue.limit_rule set while_waiting = (name = 'stripe'), max_running = 2")
    (two,) = metered(ruled, BOTH)
    suspend(ruled, *claim_turns(ruled, [BOTH]))
    ruled.execute("update pgqueue.limit_rule set max_running = 1")
    wake(ruled, one, two)
    assert (scalar(ruled, KEPT, one), scalar(ruled, KEPT, two)) == (["line"], ["stripe"])
    assert go_on(ruled) == []

    found = db.run(ruled, QUERIES.turns.give_up(KeptPlace(), 100))
    assert (found.looked, found.places) == (2, 1)
    assert [job.id for job in go_on(ruled)] == [two]


@pytest.mark.parametrize("end", ["retry", "dead_letter", "succeed", "cancel", "rescue"])
def test_whatever_ends_the_attempt_gives_all_back(ruled: Conn, end: str) -> None:
    (first,) = metered(ruled, BOTH)
    suspend(ruled, *claim_turns(ruled, [BOTH]))
    wake(ruled, first)
    (job,) = go_on(ruled)
    if end == "rescue":
        ruled.execute("update pgqueue.worker set lost_at = now()")
        db.run(ruled, QUERIES.jobs.rescue(None))
    else:
        ends = {"succeed": PLAIN_SUCCESS, "retry": Resolution("retry", "error", 1.0)}
        db.run(ruled, QUERIES.jobs.resolve([(job, ends.get(end) or Resolution(end, "x"))]))

    assert (running(ruled, "line"), running(ruled, "stripe")) == (0, 0)
    rows = ruled.execute(ROW, (first,)).fetchall()
    assert [row[0] for row in rows] == [BOTH.lane] * len(rows)


def test_who_cancels_a_job_that_waits_gives_its_place_back_in_the_same_statement(ruled: Conn) -> None:
    (first,) = metered(ruled, BOTH)
    suspend(ruled, *claim_turns(ruled, [BOTH]))
    db.run(ruled, QUERIES.jobs.cancel([first], "enough"))
    assert (running(ruled, "line"), running(ruled, "stripe"), scalar(ruled, KEPT, first)) == (0, 0, None)

    db.run(ruled, QUERIES.jobs.restore([first], "after all"))
    assert ruled.execute(ROW, (first,)).fetchone() == (BOTH.lane, "blocked", 1)
    assert [job.id for job in claim_turns(ruled, [BOTH])] == [first]
    assert (running(ruled, "line"), running(ruled, "stripe")) == (1, 1)


def test_who_edits_a_job_that_waits_gives_its_place_back(ruled: Conn) -> None:
    (first,) = metered(ruled, BOTH)
    suspend(ruled, *claim_turns(ruled, [BOTH]))
    db.run(ruled, QUERIES.jobs.edit_waiting({first: EditedJob()}, "edited", Edit(priority=3)))
    assert (running(ruled, "line"), scalar(ruled, KEPT, first)) == (0, None)
    assert ruled.execute(ROW, (first,)).fetchone() == (BOTH.lane, "blocked", 1)


def test_nobody_finds_room_while_the_holder_falls_asleep(ruled: Conn, connect: Any) -> None:
    """RESOLVE gives the place back, and PUT_TO_SLEEP takes it again: nobody sees what is between."""
    metered(ruled, LINE, jobs=2)
    (job,) = claim_turns(ruled, [LINE])
    ruled.commit()
    holder, other = connect(), connect()
    db.run(holder, QUERIES.jobs.resolve([(job, SNOOZED)]))
    assert claim_turns(other, [LINE]) == []
    db.run(holder, QUERIES.steps.put_to_sleep([(job, None)]))
    assert claim_turns(other, [LINE]) == []
    holder.commit()
    assert claim_turns(other, [LINE]) == []
    assert running(ruled, "line") == 1


def test_a_claim_that_waits_for_another_one_does_not_take_a_kept_place(ruled: Conn, connect: Any) -> None:
    ruled.execute("update pgqueue.limit_rule set max_running = 2 where name = 'line'")
    metered(ruled, LINE, jobs=3)
    (job,) = claim_turns(ruled, [LINE], most=1)
    ruled.commit()
    one, two, sleeper = connect(), connect(), connect()
    db.run(sleeper, QUERIES.jobs.resolve([(job, SNOOZED)]))
    assert len(claim_turns(one, [LINE])) == 1
    waiting = InThread(lambda: claim_turns(two, [LINE]))
    wait_blocked(ruled, two, one)
    db.run(sleeper, QUERIES.steps.put_to_sleep([(job, None)]))
    sleeper.commit()
    one.commit()
    assert waiting.result() == []
    assert running(ruled, "line") == 2


def test_an_end_waits_until_the_place_is_kept_and_then_lets_exactly_one_begin(ruled: Conn, connect: Any) -> None:
    ruled.execute("update pgqueue.limit_rule set max_running = 2 where name = 'line'")
    metered(ruled, LINE, jobs=4)
    sleeping, ending = claim_turns(ruled, [LINE])
    ruled.commit()
    sleeper, other = connect(), connect()
    db.run(sleeper, QUERIES.jobs.resolve([(sleeping, SNOOZED)]))
    end = InThread(lambda: db.run(other, QUERIES.jobs.resolve([(ending, PLAIN_SUCCESS)])))
    wait_blocked(ruled, other, sleeper)
    db.run(sleeper, QUERIES.steps.put_to_sleep([(sleeping, None)]))
    sleeper.commit()
    assert end.result() == {ending.id}
    other.commit()
    assert len(claim_turns(ruled, [LINE])) == 1
    assert running(ruled, "line") == 2


def test_a_place_that_is_given_back_under_a_claim_counts_no_more(ruled: Conn, connect: Any) -> None:
    """An edit leaves the row of a job in order where it was: the claim must not believe the place in its snapshot."""
    order = Flow(("line", "t#order/7"), order="t#order/7")
    (first,) = metered(ruled, order)
    suspend(ruled, *claim_turns(ruled, [order]))
    wake(ruled, first)
    ruled.commit()
    (lane,) = looked(ruled)
    line = Line(lane.number, 0, json.dumps(order.buckets), 9, kept='["line"]')
    holder, claimer = connect(), connect()
    holder.execute("select from pgqueue.limit_use where name = 't#order/7' for update")
    claiming = InThread(lambda: db.run(claimer, QUERIES.turns.claim(WORKER, "default", [line], room=9, slots=9)).jobs)
    wait_blocked(ruled, claimer, holder)
    db.run(ruled, QUERIES.jobs.edit_waiting({first: EditedJob()}, "edited", Edit(delay=0.0)))
    ruled.commit()
    holder.commit()
    assert claiming.result() == []
    assert running(ruled, "line") == 0


def test_a_pause_holds_back_a_job_that_has_kept_its_place(ruled: Conn) -> None:
    (first,) = metered(ruled, LINE)
    suspend(ruled, *claim_turns(ruled, [LINE]))
    wake(ruled, first)
    ruled.execute("update pgqueue.limit_rule set paused_at = now() where name = 'line'")
    assert (looked(ruled)[0].room, go_on(ruled)) == (0, [])
    ruled.execute("update pgqueue.limit_rule set paused_at = null, max_running = 0 where name = 'line'")
    assert looked(ruled)[0].can_begin  # what is in flight goes on, whatever the limit is by now
    assert [job.id for job in go_on(ruled)] == [first]


def test_jobs_in_order_keep_their_place_in_both_ways(ruled: Conn) -> None:
    ruled.execute("update pgqueue.limit_rule set max_running = 2 where name = 'line'")
    order = Flow(("line", "t#order/7"), order="t#order/7")
    first, _ = metered(ruled, order, jobs=2)
    suspend(ruled, *claim_turns(ruled, [order]))
    wake(ruled, first)
    assert claim_turns(ruled, [order]) == []  # its head has kept a place: to take another one would be one too many
    assert [job.id for job in go_on(ruled)] == [first]
    assert (running(ruled, "line"), running(ruled, "t#order/7")) == (1, 1)


def test_reconciling_counts_kept_places_and_finds_those_of_jobs_that_are_gone(ruled: Conn) -> None:
    (first,) = metered(ruled, LINE)
    suspend(ruled, *claim_turns(ruled, [LINE]))
    assert db.run(ruled, QUERIES.turns.find_drift(10)) == []
    assert db.run(ruled, QUERIES.turns.reconcile("line")) is None
    ruled.execute("delete from pgqueue.job_live where id = %s", (first,))  # an older release, or a hand

    db.run(ruled, QUERIES.turns.give_up(KeptPlace(), 100))
    assert db.run(ruled, QUERIES.turns.find_drift(10)) == ["line"]
    assert db.run(ruled, QUERIES.turns.reconcile("line")) == (1, 0)
    assert running(ruled, "line") == 0


def test_a_claim_that_knows_of_no_kept_places_takes_one_too_many_and_never_too_few(ruled: Conn) -> None:
    """As a worker of an older release would, if one lived: nothing is exceeded, and reconciling puts it right."""
    ruled.execute("update pgqueue.limit_rule set max_running = 2 where name = 'line'")
    (first,) = metered(ruled, LINE)
    suspend(ruled, *claim_turns(ruled, [LINE]))
    wake(ruled, first)
    (lane,) = looked(ruled)
    line = Line(lane.number, 0, '["line"]', 9)
    (job,) = db.run(ruled, QUERIES.turns.claim(WORKER, "default", [line], room=9, slots=9)).jobs
    assert running(ruled, "line") == 2
    db.run(ruled, QUERIES.turns.give_up(KeptPlace(), 100))
    assert db.run(ruled, QUERIES.turns.reconcile("line")) == (2, 1)
    suspend(ruled, job)
    assert running(ruled, "line") == 1
    assert scalar(ruled, KEPT, first) == ["line"]


def test_no_place_is_kept_while_an_older_process_lives_and_none_can_start_afterwards(conn: Conn) -> None:
    worker = add_worker(conn)
    conn.execute("update pgqueue.worker set knows = '0046' where id = %s", (worker,))
    rule(conn, "line", max_running=1, while_waiting=True)
    metered(conn, LINE)
    with conn.transaction():
        assert scalar(conn, "select pgqueue.keep_places()").startswith("worker on ")
        assert scalar(conn, LOCKED) == 0  # who only hears that an older process lives holds up no beat of a worker
    suspend(conn, *claim_turns(conn, [LINE], worker=worker))
    assert running(conn, "line") == 0

    conn.execute("update pgqueue.worker set knows = '0047'")
    assert scalar(conn, "select pgqueue.keep_places()") is None
    assert db.run(conn, QUERIES.schema.check()).needs == "0047"
    conn.execute("update pgqueue.limit_rule set while_waiting = false")
    assert scalar(conn, "select pgqueue.keep_places()") is None
    assert db.run(conn, QUERIES.schema.check()).needs is None


def test_the_view_shows_how_many_of_those_that_run_wait(ruled: Conn) -> None:
    metered(ruled, LINE)
    suspend(ruled, *claim_turns(ruled, [LINE]))
    (status,) = db.run(ruled, QUERIES.limits.list("line"))
    assert (status.running, status.held, status.while_waiting) == (1, 1, True)
    assert status.while_waiting_since is not None


def test_a_rule_that_counts_no_waits_costs_a_metered_job_nothing(ruled: Conn) -> None:
    other = keyed("stripe")
    (job,) = metered(ruled, other)
    suspend(ruled, *claim_turns(ruled, [other]))
    assert ruled.execute(ROW, (job,)).fetchone() == (other.lane, "blocked", 1)
    assert (running(ruled, "stripe"), scalar(ruled, "select count(*) from pgqueue.limit_hold")) == (0, 0)


def test_who_wants_to_stop_what_runs_finds_those_that_keep_places(ruled: Conn) -> None:
    ruled.execute("update pgqueue.limit_rule set on_full = 'cancel_running' where name = 'line'")
    first, _ = metered(ruled, LINE, jobs=2)
    suspend(ruled, *claim_turns(ruled, [LINE]))
    full = FullLane("default", LINE.lane, 0, "line", "cancel_running")
    assert db.run(ruled, QUERIES.turns.cancel_holders(full)) == []
    assert db.run(ruled, QUERIES.turns.keepers(full)) == [first]
    ruled.execute("delete from pgqueue.job_live where id <> %s", (first,))
    assert db.run(ruled, QUERIES.turns.keepers(full)) == []


def test_two_workers_that_have_seen_a_full_bucket_cancel_as_many_as_wait_for_it_and_no_more(ruled: Conn) -> None:
    ruled.execute("update pgqueue.limit_rule set max_running = 2, on_full = 'cancel_running' where name = 'line'")
    first, second, _ = metered(ruled, LINE, jobs=3)
    suspend(ruled, *claim_turns(ruled, [LINE]))
    full = FullLane("default", LINE.lane, 0, "line", "cancel_running")
    assert db.run(ruled, QUERIES.turns.keepers(full)) == [first]
    db.run(ruled, QUERIES.jobs.cancel([first], "a newer one waits"))

    assert db.run(ruled, QUERIES.turns.keepers(full)) == []
    metered(ruled, LINE)  # one more waits than there is room for now
    assert db.run(ruled, QUERIES.turns.keepers(full)) == [second]


def test_a_workflow_that_is_cancelled_gives_back_what_its_members_have_kept(ruled: Conn) -> None:
    made = insert(ruled, graph(1, flow=LINE))
    (job,) = made.jobs
    db.run(ruled, QUERIES.turns.make_buckets(["line"]))
    (claimed,) = claim_turns(ruled, [LINE])
    with ruled.transaction():
        db.run(ruled, QUERIES.jobs.resolve_tied([(claimed, SNOOZED)]))
        db.run(ruled, QUERIES.steps.put_to_sleep([(claimed, None)]))
    assert running(ruled, "line") == 1
    ruled.execute("update pgqueue.workflow set stop_reason = 'enough' where id = %s", (made.id,))
    db.run(ruled, QUERIES.workflows.stop(10))
    assert (running(ruled, "line"), scalar(ruled, KEPT, job)) == (0, None)


def test_a_rule_that_sql_has_given_a_breaker_as_well_keeps_no_place(ruled: Conn) -> None:
    """A place that waits would count as the one job that tries, and the breaker would never close."""
    ruled.execute("update pgqueue.limit_rule set max_running = 2 where name = 'line'")
    metered(ruled, LINE, jobs=2)
    before, after = claim_turns(ruled, [LINE])
    suspend(ruled, before)
    ruled.execute(f"update pgqueue.limit_rule set {BREAKER} where name = 'line'")
    suspend(ruled, after)
    assert (running(ruled, "line"), scalar(ruled, KEPT, after.id)) == (1, None)
    assert db.run(ruled, QUERIES.turns.give_up(KeptPlace(), 100)).places == 1
    assert running(ruled, "line") == 0


def test_a_called_job_whose_caller_has_ended_gives_its_place_back(ruled: Conn) -> None:
    first, second = metered(ruled, LINE, jobs=2)
    suspend(ruled, *claim_turns(ruled, [LINE]))
    ruled.execute("insert into pgqueue.unwanted_call (child_id) values (%s)", (first,))
    assert db.run(ruled, QUERIES.calls.call_off(10)).moved == {first}
    assert (running(ruled, "line"), scalar(ruled, KEPT, first)) == (0, None)
    assert [job.id for job in claim_turns(ruled, [LINE])] == [second]


def test_a_job_that_goes_on_is_no_new_start_for_the_rate_of_a_worker(ruled: Conn) -> None:
    rate = "rate_count = 1, rate_seconds = 60, scope = 'worker', rate_strict = false"
    ruled.execute(f"update pgqueue.limit_rule set {rate} where name = 'stripe'")
    (first,) = metered(ruled, BOTH)
    suspend(ruled, *claim_turns(ruled, [BOTH]))
    wake(ruled, first)
    assert [pace[0] for pace in json.loads(looked(ruled)[0].paced)] == ["stripe"]  # it has not kept that place
    ruled.execute(f"update pgqueue.limit_rule set {rate} where name = 'line'")
    assert [pace[0] for pace in json.loads(looked(ruled)[0].paced)] == ["stripe"]
