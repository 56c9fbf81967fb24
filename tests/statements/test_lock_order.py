"""Statements that end jobs lock rows in one order, or leave what others hold: no two of them wait for each other.

Each test builds the knot: somebody holds a row, one statement waits for it with others in its hand, a second one comes.
"""

from collections.abc import Callable
from typing import Any, LiteralString

import pytest

from pgqueue import db
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS
from pgqueue.queries.turns.full import FullLane
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, add_rule, add_worker, new_job, wait_blocked, wait_for
from tests.statements.graphs import DEAD, DONE, claim, end, graph, insert, states, tidy, workflow_state
from tests.statements.test_races import at_once
from tests.statements.turns import claim_turns, in_order, metered, rule

Open = Callable[[], Conn]
Call = Callable[[Conn], Any]
ROW: LiteralString = "select from pgqueue.job_live where id = %s for update"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def running(conn: Conn, made: InsertedWorkflow) -> dict[int, ClaimedJob]:
    """Claim what is due, by the place in the graph."""
    add_worker(conn)
    return {made.jobs.index(job): one for job, one in claim(conn).items()}


def both_return(
    conn: Conn, connect: Open, row: object, first: Call, second: Call, *, row_of: LiteralString = ROW
) -> tuple[Any, Any]:
    """Let `first` wait for a row that somebody holds, and begin `second`; let the row go; return what both returned."""
    holder, a, b = connect(), connect(), connect()
    for each in (a, b):
        each.execute("set deadlock_timeout = '50ms'")
        each.commit()
    holder.execute(row_of, (row,))
    one = InThread(lambda: first(a))
    wait_blocked(conn, a, holder)
    other = InThread(lambda: second(b))
    pids = "select cardinality(pg_blocking_pids(%s)) > 0"
    wait_for(lambda: other.done or scalar(conn, pids, b.info.backend_pid), "the second one to wait or to end")
    holder.commit()
    returned = one.result()
    a.commit()
    also = other.result()
    b.commit()
    return returned, also


def test_a_cancel_of_running_and_waiting_nodes_and_the_ends_of_their_parents(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(3, [(0, 1)]))
    taken = running(conn, made)
    ends, found = both_return(
        conn,
        connect,
        made.jobs[2],
        lambda a: end(a, (taken[0], DONE), (taken[2], DONE)),
        lambda b: db.run(b, QUERIES.jobs.cancel(made.jobs[1:], "not wanted")),
    )
    assert ends.moved == {made.jobs[0], made.jobs[2]}
    assert [job.state for job in found] == ["pending"]
    assert states(conn, made) == "scs"
    tidy(conn)
    assert workflow_state(conn, made.id) == "cancelled"


def test_a_workflow_that_is_cancelled_in_a_transaction_while_a_member_fails_and_would_stop_it(
    conn: Conn, connect: Open
) -> None:
    made = insert(conn, graph(3, [(1, 2)], on_failure="stop"))
    taken = running(conn, made)
    a, b = connect(), connect()
    assert db.run(a, QUERIES.workflows.request_stop(made.id, "not wanted"))
    failing = InThread(lambda: end(b, (taken[0], DEAD)))
    wait_blocked(conn, b, a)
    assert made.jobs[2] in db.run(a, QUERIES.workflows.stop(500, made.id)).moved
    a.commit()
    assert failing.result().moved == {made.jobs[0]}
    b.commit()
    assert states(conn, made) == "frc"


def test_a_group_whose_child_is_held_by_one_who_waits_for_a_gate_is_settled_next(conn: Conn, connect: Open) -> None:
    """Jobs 0 and 1 run before job 2: the first is the group of one, the second a member of the workflow."""
    edges = [Edge(-2, 2), Edge(1, 2)]
    made = insert(
        conn, Graph([new_job("first"), new_job(), new_job()], [1, 0, 0], edges, [Group("w"), Group("g", parent=0)])
    )
    taken = running(conn, made)
    a, b = connect(), connect()
    db.run(conn, QUERIES.jobs.release_strays(taken[0].worker_id, [made.jobs[1]]))
    assert states(conn, made) == "prb"
    assert db.run(a, QUERIES.workflows.request_stop(made.id, "not wanted"))
    ending = InThread(lambda: end(b, (taken[1], DONE)))
    wait_blocked(conn, b, a)  # for the gate of the workflow, with job 2 in its hand
    assert db.run(a, QUERIES.workflows.stop(500, made.id)).moved == {made.jobs[0]}
    assert db.run(a, QUERIES.workflows.settle(10, made.id)).moved == set()
    a.commit()
    assert ending.result().moved == {made.jobs[1]}
    b.commit()
    tidy(conn)
    assert states(conn, made) == "csc"
    assert workflow_state(conn, made.id) == "cancelled"


@pytest.mark.parametrize("turned", [False, True])
def test_two_batches_of_counted_members_that_share_two_gates(conn: Conn, connect: Open, turned: bool) -> None:
    """A large group has sixteen gates in turn. Who locked gates in the order of jobs would begin with the first one in
    one batch, and with the second one in the other, and each would wait for the other."""
    made = insert(conn, graph(70))
    taken = running(conn, made)
    batches = [[taken[0], taken[17]], [taken[1], taken[16]]]
    if turned:
        batches.reverse()
    one, other = (QUERIES.jobs.succeed_counted([(job, PLAIN_SUCCESS) for job in batch]) for batch in batches)
    first = scalar(conn, "select min(id) from pgqueue.gate")
    ends = both_return(conn, connect, first, lambda a: db.run(a, one), lambda b: db.run(b, other), row_of=GATE_ROW)
    assert [told.moved for told in ends] == [{job.id for job in batch} for batch in batches]
    left = conn.execute("select members - remaining from pgqueue.gate order by id").fetchall()
    assert [row[0] for row in left] == [2, 2, *[0] * 14]


def rescue(conn: Conn) -> set[int]:
    return {job.id for job in db.run(conn, QUERIES.jobs.rescue(None, max_crashes=1))}


def expire(conn: Conn) -> set[int]:
    return {job.id for job in db.run(conn, QUERIES.jobs.expire(10))}


@pytest.mark.parametrize("ending", [rescue, expire])
def test_jobs_that_end_without_a_worker_leave_one_whose_child_is_held(
    conn: Conn, connect: Open, ending: Callable[[Conn], set[int]]
) -> None:
    """Jobs 1 and 2 wait for job 0. The cancel holds job 2 and wants job 3; whoever ends 0 and 3 wants job 2."""
    made = insert(conn, graph(4, [(0, 1), (0, 2)]))
    if ending is rescue:
        running(conn, made)
        conn.execute("update pgqueue.worker set lost_at = now()")
    else:
        conn.execute("update pgqueue.job_live set expires_at = now() - interval '1 minute' where state = 'pending'")
    holder, a, b = connect(), connect(), connect()
    holder.execute(ROW, (made.jobs[1],))
    with at_once(a):
        assert ending(a) == {made.jobs[3]}
    cancelling = InThread(lambda: db.run(b, QUERIES.jobs.cancel(made.jobs[2:], "not wanted")))
    wait_blocked(conn, b, a)
    a.commit()
    assert {job.id for job in cancelling.result()} == {made.jobs[2]}
    b.commit()
    holder.commit()
    assert ending(conn) == {made.jobs[0]}
    tidy(conn)
    assert states(conn, made) == ("fccf" if ending is rescue else "cccc")


def test_a_bulk_cancel_comes_back_to_a_job_whose_child_is_held(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(4, [(0, 1)], task="t"))
    chosen = JobFilter(ids=[made.jobs[0], made.jobs[3]])
    begun = db.run(conn, QUERIES.operations.begin("cancel", chosen, {}, "ann", "test"))
    operation = db.run(conn, QUERIES.operations.lock(begun))
    holder = connect()
    holder.execute(ROW, (made.jobs[1],))
    with conn.transaction():
        batch = db.run(conn, QUERIES.chosen.next_batch(operation, chosen, 0, 10))
    assert (batch.locked, [job.id for job in batch.candidates]) == ([made.jobs[0]], [made.jobs[3]])
    holder.commit()
    batch = db.run(conn, QUERIES.chosen.next_batch(operation, chosen, 0, 10, batch.locked))
    assert [job.id for job in batch.candidates] == [made.jobs[0]]


def test_jobs_behind_a_full_bucket_are_left_while_their_gate_is_held(conn: Conn, connect: Open) -> None:
    """Who ends a member holds its gate and then waits for the bucket, which the one who cancels holds."""
    flow = Flow((add_rule(conn, "full", running=1, max_running=1, on_full="skip"),))
    made = insert(conn, graph(2, flow=flow))
    full = FullLane("default", flow.lane, 0, "full", "skip")
    holder, a = connect(), connect()
    holder.execute("select from pgqueue.gate for update")
    with at_once(a):
        assert db.run(a, QUERIES.turns.cancel_behind(full, 10)) == []
    a.commit()
    holder.commit()
    assert {job.id for job in db.run(conn, QUERIES.turns.cancel_behind(full, 10))} == set(made.jobs)


def stopped_keys(conn: Conn) -> tuple[list[int], list[ClaimedJob]]:
    """Stop the keys c and a of an order by a dead letter each, c first; return these and the other jobs that run, of
    a, b and c. An operator has let two jobs of each key run, so one may still run in a key that is stopped."""
    add_worker(conn)
    rule(conn, "o", kind="order", max_running=2, on_dead="stop")
    flows = [in_order(f"o/{key}") for key in "cab"]
    for flow in flows:
        metered(conn, flow, 2)
    taken = {flow.order: [claim_turns(conn, [flow])[0] for _ in range(2)] for flow in flows}
    letters = [taken["o/c"][0], taken["o/a"][0]]
    assert db.run(conn, QUERIES.jobs.resolve([(job, DEAD) for job in letters])) == {job.id for job in letters}
    assert [job.id for job in letters] == sorted(job.id for job in letters)
    return [job.id for job in letters], [taken[f"o/{key}"][1] for key in "abc"]


def begun(conn: Conn, kind: str, letters: list[int]) -> int:
    return db.run(conn, QUERIES.operations.begin(kind, DeadFilter(ids=letters), {}, "ann", "test"))


PAUSES = "select key, paused_why from pgqueue.limit_key where paused_at is not null order by key"
KEY_ROW: LiteralString = "select from pgqueue.limit_key where key = %s for update"
GATE_ROW: LiteralString = "select from pgqueue.gate where id = %s for update"


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_a_verb_on_what_has_stopped_keys_and_ends_that_stop_them_anew(conn: Conn, connect: Open, verb: str) -> None:
    """The ends go through the keys in order, and wait for b with a in their hand; the verb wants c and a."""
    letters, running_on = stopped_keys(conn)
    conn.execute("insert into pgqueue.limit_key (rule, key, weight) values ('o', 'b', 1)")
    operation = begun(conn, verb, letters)
    dead = QUERIES.dead
    done = dead.redrive(operation, letters, "again", {}) if verb == "redrive" else dead.discard(letters, "unwanted")
    ends, count = both_return(
        conn,
        connect,
        "b",
        lambda a: db.run(a, QUERIES.jobs.resolve([(job, DEAD) for job in running_on])),
        lambda b: db.run(b, done),
        row_of=KEY_ROW,
    )
    assert (ends, count) == ({job.id for job in running_on}, 2)
    # Each key is stopped by its newest dead letter, on which nobody has done anything.
    assert conn.execute(PAUSES).fetchall() == [
        (key, f"dead letter {job.id}") for key, job in zip("abc", running_on, strict=True)
    ]


def test_a_discard_takes_the_keys_after_the_gates_as_those_do_who_end_members(conn: Conn, connect: Open) -> None:
    """The ends hold the gate of the first workflow, wait for that of the second, and want the key; the discard wants
    the gate of the first workflow and the key."""
    add_worker(conn)
    rule(conn, "o", kind="order", max_running=3, on_dead="stop")
    flow = in_order("o/k")
    db.run(conn, QUERIES.turns.make_buckets([*flow.buckets]))
    held = insert(conn, graph(3, [(0, 1)], on_failure="hold", flow=flow))
    other = insert(conn, graph(1, flow=flow))
    taken = {job.id: job for job in (claim_turns(conn, [flow])[0] for _ in range(3))}
    letter, member = taken[held.jobs[0]], taken[held.jobs[2]]
    end(conn, (letter, DEAD))
    assert conn.execute(PAUSES).fetchall() == [("k", f"dead letter {letter.id}")]
    (gate,) = conn.execute("select id from pgqueue.gate where workflow_id = %s", (other.id,)).fetchone() or (0,)
    ends, count = both_return(
        conn,
        connect,
        gate,
        lambda a: end(a, (member, DONE), (taken[other.jobs[0]], DEAD)),
        lambda b: db.run(b, QUERIES.dead.discard([letter.id], "unwanted")),
        row_of=GATE_ROW,
    )
    assert ends.moved == {member.id, other.jobs[0]}
    assert count == 1
    assert conn.execute(PAUSES).fetchall() == [("k", f"dead letter {other.jobs[0]}")]
    tidy(conn)
    assert states(conn, held) == "ccs"


def test_a_rescue_takes_the_keys_after_the_gates_as_those_do_who_end_members(conn: Conn, connect: Open) -> None:
    """The ends hold the gate of the first workflow, wait for that of the second, and want the key; the rescue wants
    the gate of the first workflow and the key."""
    living, lost = add_worker(conn), add_worker(conn)
    rule(conn, "o", kind="order", max_running=3, on_dead="stop")
    flow = in_order("o/k")
    db.run(conn, QUERIES.turns.make_buckets([*flow.buckets]))
    first, second = insert(conn, graph(2, flow=flow)), insert(conn, graph(1, flow=flow))
    taken = [claim_turns(conn, [flow], worker=worker)[0] for worker in (lost, living, living)]
    assert [job.id for job in taken] == [*first.jobs, *second.jobs]
    conn.execute("update pgqueue.worker set lost_at = now() where id = %s", (lost,))
    (gate,) = conn.execute("select id from pgqueue.gate where workflow_id = %s", (second.id,)).fetchone() or (0,)
    ends, rescued = both_return(
        conn, connect, gate, lambda a: end(a, (taken[1], DONE), (taken[2], DEAD)), rescue, row_of=GATE_ROW
    )
    assert ends.moved == {taken[1].id, taken[2].id}
    assert rescued == {taken[0].id}
    assert conn.execute(PAUSES).fetchall() == [("k", f"dead letter {taken[0].id}")]
    assert [workflow_state(conn, made.id) for made in (first, second)] == ["failed", "failed"]
