"""Adding to workflows that run, by two connections at once. pg_blocking_pids proves each wait."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from pgqueue import App, InvalidWorkflow, WorkflowEnded, db
from pgqueue.client.adding import add_to, seal
from pgqueue.client.canvas.addition import NewNodes
from pgqueue.client.canvas.building import Ends
from pgqueue.client.steps import follow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.graph import INHERIT, OUTSIDE, Edge, Graph, Group
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, claimed, new_job, wait_blocked, wait_for
from tests.statements.graphs import DEAD, DONE, claim, end, graph, insert, retry, tidy, workflow_state
from tests.statements.test_graph_races import after_waiting, running
from tests.statements.test_races import at_once

Open = Callable[[], Conn]
QUERY = QUERIES.workflows


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def new_node(after: Sequence[tuple[int, str]] = ()) -> NewNodes[Any]:
    """One job that waits for ends of jobs that are there."""
    edges = [Edge(OUTSIDE - number, 0, when) for number, (_, when) in enumerate(after)]
    made = Graph([new_job()], [0], edges, [Group("w", None, INHERIT)], outside=[job for job, _ in after])
    return NewNodes(made, Ends((0,)), App())


def add(conn: Conn, group: int, *after: tuple[int, str]) -> int:
    """Add a job to a group, in the transaction that is open; return its id."""
    if conn.autocommit:
        with conn.transaction():
            return int(follow(conn, add_to(QUERY, group, new_node(after)))["jobs"][0])
    return int(follow(conn, add_to(QUERY, group, new_node(after)))["jobs"][0])


def do_seal(conn: Conn, workflow: int) -> bool:
    return follow(conn, seal(QUERY, workflow))


def state(conn: Conn, job: int) -> str:
    return str(scalar(conn, "select state from pgqueue.job where id = %s", job))


def open_workflow(conn: Conn, nodes: int = 1) -> InsertedWorkflow:
    made = graph(nodes)
    made.sealed = False
    return insert(conn, made)


def test_a_child_that_is_added_while_its_parent_ends_is_told_after_both(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(2))
    first, _ = running(conn, made)
    a, b = connect(), connect()
    child = add(a, made.id, (first.id, "s"))
    with at_once(b):
        assert end(b, (first, DONE)).ready == set()  # it does not see the edge, and waits for nothing
    b.commit()
    a.commit()
    assert state(conn, child) == "blocked"
    assert db.run(conn, QUERY.look()).late
    assert db.run(conn, QUERY.tell_late(10)).ready == {child}
    assert not db.run(conn, QUERY.look()).late
    assert state(conn, child) == "pending"


def test_a_child_that_is_committed_first_is_told_when_its_parent_has_ended(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(2))
    first, _ = running(conn, made)
    child = add(conn, made.id, (first.id, "s"))
    db.run(conn, QUERY.mark_late(10))
    assert db.run(conn, QUERY.tell_late(10)).moved == set()
    a, b = connect(), connect()
    assert end(a, (first, DONE)).late  # whoever ends it is told to look
    assert state(conn, child) == "blocked"
    a.commit()
    assert db.run(b, QUERY.tell_late(10)).ready == {child}
    with at_once(conn):
        assert db.run(conn, QUERY.tell_late(10)).moved == set()  # another one passes it over
    b.commit()
    assert (
        scalar(conn, "select count(*) from pgqueue.transition where job_id = %s and to_state = 'pending'", child) == 1
    )


def test_an_edge_to_a_job_that_has_ended_counts_at_once(conn: Conn) -> None:
    made = insert(conn, graph(4))
    first, second, third, _ = running(conn, made)
    end(conn, (first, DONE), (second, DEAD))
    met, unmet = add(conn, made.id, (first.id, "s")), add(conn, made.id, (second.id, "s"))
    handler = add(conn, made.id, (second.id, "f"), (first.id, "e"))
    waits = add(conn, made.id, (first.id, "s"), (third.id, "s"))
    tidy(conn)
    assert [state(conn, job) for job in (met, unmet, handler, waits)] == ["pending", "cancelled", "pending", "blocked"]
    assert scalar(conn, "select waits_on from pgqueue.job_live where id = %s", waits) == 1


def test_a_parent_and_the_late_edge_are_marked_in_either_order(conn: Conn, connect: Open) -> None:
    """The mark that an edge is late may come while the parent's end waits for it, and the other way round."""
    made = insert(conn, graph(2))
    first, second = running(conn, made)
    child = add(conn, made.id, (first.id, "s"), (second.id, "s"))
    a, b = connect(), connect()
    db.run(a, QUERY.mark_late(10))
    assert after_waiting(conn, a, b, lambda: end(b, (first, DONE))).late
    end(a, (second, DONE))
    with at_once(b):
        db.run(b, QUERY.mark_late(10))
    b.commit()
    a.commit()
    db.run(conn, QUERY.tell_late(10))
    assert state(conn, child) == "pending"


def test_a_counted_member_that_gets_a_late_child_while_it_is_written_is_left_and_written_by_its_ties(
    conn: Conn, connect: Open
) -> None:
    made = insert(conn, graph(2))
    first, _ = running(conn, made)
    a, b = connect(), connect()
    child = add(a, made.id, (first.id, "s"))
    db.run(a, QUERY.mark_late_of([first.id]))
    counted = QUERIES.jobs.succeed_counted([(first, PLAIN_SUCCESS)])
    assert after_waiting(conn, a, b, lambda: db.run(b, counted)).moved == set()
    assert state(conn, first.id) == "running"
    assert end(conn, (first, PLAIN_SUCCESS)).late
    assert db.run(conn, QUERY.tell_late(10)).ready == {child}


def test_the_last_member_that_ends_waits_for_who_adds_another_one(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(1))
    (last,) = running(conn, made)
    a, b = connect(), connect()
    child = add(a, made.id)
    assert not after_waiting(conn, a, b, lambda: end(b, (last, DONE))).unsettled
    assert workflow_state(conn, made.id) == "running"
    (job,) = [job for job in claim(conn).values() if job.id == child]
    assert end(conn, (job, DONE)).unsettled
    assert workflow_state(conn, made.id) == "succeeded"


def test_who_adds_waits_for_the_last_end_and_is_refused(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(1))
    (last,) = running(conn, made)
    a, b = connect(), connect()
    assert end(a, (last, DONE)).unsettled
    with pytest.raises(WorkflowEnded, match="succeeded"):
        after_waiting(conn, a, b, lambda: add(b, made.id))
    b.rollback()
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0


def test_an_end_that_closes_no_gate_does_not_wait_for_who_adds(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(3))
    first, *_ = running(conn, made)
    a, b = connect(), connect()
    add(a, made.id)
    with at_once(b):
        assert end(b, (first, DONE)).moved == {first.id}


def test_what_is_added_while_a_workflow_is_cancelled_is_cancelled(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(2))
    run = running(conn, made)
    a, b = connect(), connect()
    before = add(a, made.id)
    after_waiting(conn, a, b, lambda: db.run(b, QUERY.request_stop(made.id, "not wanted")))
    after = add(conn, made.id)
    tidy(conn)
    end(conn, *((job, DONE) for job in run))
    assert [state(conn, job) for job in (before, after)] == ["cancelled", "cancelled"]
    assert workflow_state(conn, made.id) == "cancelled"


def test_a_member_that_fails_stops_what_is_added_to_a_workflow_that_stops(conn: Conn) -> None:
    made = insert(conn, graph(2, on_failure="stop"))
    first, second = running(conn, made)
    end(conn, (first, DEAD))
    child = add(conn, made.id)
    assert int(scalar(conn, "select ties::int & 32 from pgqueue.job_live where id = %s", child)) == 32
    tidy(conn)
    end(conn, (second, DONE))
    assert state(conn, child) == "cancelled"
    assert workflow_state(conn, made.id) == "failed"


def test_a_circle_through_a_group_is_refused(conn: Conn) -> None:
    made = insert(
        conn,
        Graph([new_job() for _ in range(4)], [1, 0, 0, None], [Edge(-2, 1), Edge(1, 2), Edge(-1, 3)],
              [Group("w"), Group("header", 0)]),
    )  # fmt: skip
    header = made.groups[1]
    for parent in (header, made.jobs[1], made.jobs[2], made.id, made.jobs[3]):
        with pytest.raises(InvalidWorkflow, match="would wait for the end of that group"):
            add(conn, header, (parent, "s"))
    assert state(conn, add(conn, header, (made.jobs[0], "s"))) == "blocked"
    assert state(conn, add(conn, made.id, (header, "s"), (made.jobs[2], "e"))) == "blocked"


def test_a_job_of_another_workflow_cannot_be_waited_for(conn: Conn) -> None:
    made, other = insert(conn, graph(1)), insert(conn, graph(1))
    with pytest.raises(InvalidWorkflow, match=f"{other.jobs[0]} is no job or group of workflow {made.id}"):
        add(conn, made.id, (other.jobs[0], "s"))


def test_a_retry_brings_back_what_was_added_with_its_edges(conn: Conn) -> None:
    made = insert(conn, graph(2))
    first, second = running(conn, made)
    child = add(conn, made.id, (first.id, "s"))
    end(conn, (first, DEAD), (second, DONE))
    db.run(conn, QUERY.tell_late(10))
    tidy(conn)
    assert (workflow_state(conn, made.id), state(conn, child)) == ("failed", "cancelled")
    assert retry(conn, made.id).revived == 2
    assert (state(conn, first.id), state(conn, child)) == ("pending", "blocked")
    again = claim(conn)
    assert end(conn, (again[first.id], DONE)).ready == {child}
    end(conn, *((job, DONE) for job in claim(conn).values()))
    assert workflow_state(conn, made.id) == "succeeded"


def test_a_retry_does_not_count_an_edge_twice_that_was_late_and_is_not_told(conn: Conn) -> None:
    """The parent has succeeded, and before anybody tells the child it is skipped for another one."""
    made = insert(conn, graph(2))
    first, second = running(conn, made)
    child = add(conn, made.id, (first.id, "s"))
    other = add(conn, made.id, (first.id, "s"), (second.id, "s"))
    end(conn, (first, DONE))
    db.run(conn, QUERIES.jobs.cancel([child, other], "not wanted"))
    end(conn, (second, DEAD))
    tidy(conn)
    assert workflow_state(conn, made.id) == "failed"
    assert retry(conn, made.id).revived == 3
    db.run(conn, QUERY.tell_late(10))
    assert (state(conn, child), state(conn, other), state(conn, second.id)) == ("pending", "blocked", "pending")


def test_who_adds_while_an_open_workflow_is_cancelled_is_counted_and_cancelled(
    app: App, conn: Conn, connect: Open
) -> None:
    """The cancellation waits for who adds; no other may add between that and the seal."""
    made = open_workflow(conn)
    gate = scalar(conn, "select gate_id from pgqueue.job_live where id = %s", add(conn, made.id))
    first, second, held, canceller = connect(), connect(), connect(), connect()
    canceller.autocommit = True
    add(first, made.id)
    cancelling = InThread(lambda: app.workflows.using(canceller).cancel(made.id))
    wait_blocked(conn, canceller, first)
    with at_once(conn):
        conn.execute("select from pgqueue.gate where id = %s for update", (gate,))  # no end waits meanwhile
    held.execute("select from pgqueue.gate where id = %s for update", (gate,))
    first.commit()
    wait_blocked(conn, canceller, held)

    def also() -> None:
        with suppress(WorkflowEnded):  # where the members have ended before it goes on
            add(second, made.id)
            second.commit()

    adding = InThread(also)
    wait_blocked(conn, second, canceller)
    held.commit()
    assert cancelling.result()
    adding.result()
    tidy(conn)
    assert workflow_state(conn, made.id) == "cancelled"
    jobs = scalar(conn, "select jobs from pgqueue.workflow where id = %s", made.id)
    assert scalar(conn, "select array_agg(state) from pgqueue.job") == ["cancelled"] * jobs


def test_an_open_workflow_ends_when_it_is_sealed(conn: Conn) -> None:
    made = open_workflow(conn)
    (only,) = running(conn, made)
    end(conn, (only, DONE))
    assert workflow_state(conn, made.id) == "running"
    added = [add(conn, made.id) for _ in range(3)]
    taken = claim(conn)
    end(conn, (taken[added[0]], DONE), (taken[added[1]], DEAD))
    with conn.transaction():
        assert do_seal(conn, made.id)
    assert workflow_state(conn, made.id) == "running"
    end(conn, (taken[added[2]], DONE))
    assert workflow_state(conn, made.id) == "failed"
    assert scalar(conn, "select jobs from pgqueue.workflows") == 4
    with conn.transaction():
        assert not do_seal(conn, made.id)


def test_those_who_add_to_an_open_workflow_wait_neither_for_each_other_nor_for_ends(conn: Conn, connect: Open) -> None:
    made = open_workflow(conn)
    (only,) = running(conn, made)
    a, b, c = connect(), connect(), connect()
    add(a, made.id)
    for other in (b, c):
        with at_once(other):
            add(other, made.id)
    with at_once(conn):
        end(conn, (only, DONE))
    assert scalar(conn, "select jobs from pgqueue.workflows") == 1
    a.commit()
    assert scalar(conn, "select jobs from pgqueue.workflows") == 2


def test_a_seal_waits_for_who_adds_and_counts_what_was_added(conn: Conn, connect: Open) -> None:
    made = open_workflow(conn)
    (only,) = running(conn, made)
    end(conn, (only, DONE))
    a, b = connect(), connect()
    child = add(a, made.id)
    assert after_waiting(conn, a, b, lambda: do_seal(b, made.id))
    assert workflow_state(conn, made.id) == "running"
    end(conn, (claim(conn)[child], DONE))
    assert workflow_state(conn, made.id) == "succeeded"


def test_who_adds_waits_for_a_seal_and_adds_as_to_any_other(conn: Conn, connect: Open) -> None:
    made = open_workflow(conn)
    a, b = connect(), connect()
    assert do_seal(a, made.id)
    child = after_waiting(conn, a, b, lambda: add(b, made.id))
    gate = "select counted from pgqueue.gate g join pgqueue.job_live j on j.gate_id = g.id where j.id = %s"
    assert scalar(conn, gate, child)
    ended = claim(conn)
    end(conn, *((job, DONE) for job in ended.values()))
    assert workflow_state(conn, made.id) == "succeeded"


def test_a_seal_and_the_last_end_of_a_new_gate_count_it_once(conn: Conn, connect: Open) -> None:
    made = open_workflow(conn)
    (only,) = running(conn, made)
    end(conn, (only, DONE))
    child = add(conn, made.id)
    job = claim(conn)[child]
    a, b = connect(), connect()
    end(a, (job, DONE))  # closes the gate, which nothing has counted
    assert after_waiting(conn, a, b, lambda: do_seal(b, made.id))
    assert workflow_state(conn, made.id) == "succeeded"

    made = open_workflow(conn)
    end(conn, *((job, DONE) for job in claim(conn).values()))
    child = add(conn, made.id)
    job = claim(conn)[child]
    assert do_seal(a, made.id)
    assert after_waiting(conn, a, b, lambda: end(b, (job, DONE))).unsettled
    assert workflow_state(conn, made.id) == "succeeded"


def test_a_cancellation_seals_an_open_workflow_once_those_who_add_have_committed(
    app: App, conn: Conn, connect: Open
) -> None:
    made = open_workflow(conn)
    a = connect()
    child = add(a, made.id)
    cancelling = InThread(lambda: app.workflows.cancel(made.id))
    waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    wait_for(lambda: scalar(conn, waits), "the wait for who adds")
    a.commit()
    assert cancelling.result()
    tidy(conn)
    assert state(conn, child) == "cancelled"
    assert workflow_state(conn, made.id) == "cancelled"
    assert scalar(conn, "select sealed and jobs = 2 from pgqueue.workflow")


REPLACED = Resolution("replace", "stand-in", refund=True)
STAND_IN = Graph([new_job(), new_job()], [0, 0], [Edge(0, 1)], [Group("r")], [1])


def replace(conn: Conn, job: ClaimedJob) -> bool:
    """Write that a job is replaced, as the resolver does; return whether it was."""
    with conn.transaction():
        moved = db.run(conn, QUERIES.jobs.resolve_tied([(job, REPLACED)])).moved
        entered = db.run(conn, QUERY.enter_replaced(job)) if moved else None
        if entered is not None:
            db.run(conn, QUERY.replace(job.id, entered.workflow, STAND_IN))
        return entered is not None


def test_a_job_is_replaced_once_and_only_under_its_lease(conn: Conn) -> None:
    made = insert(conn, graph(1))
    (job,) = running(conn, made)
    stale = claimed(job.id, job.lease + 1, ties=job.ties)
    assert not replace(conn, stale)
    assert replace(conn, job)
    assert not replace(conn, job)
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 3
    assert scalar(conn, "select count(*) from pgqueue.workflow where replaces = %s", job.id) == 1


def test_of_two_who_replace_a_job_at_once_the_second_finds_it_moved(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(1))
    (job,) = running(conn, made)
    a, b = connect(), connect()
    a.execute("select 1")  # so that the transaction stays open
    assert replace(a, job)
    assert not after_waiting(conn, a, b, lambda: replace(b, job))
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 3


def test_a_job_with_a_cancel_request_ends_and_nothing_runs_in_its_place(conn: Conn) -> None:
    made = insert(conn, graph(1))
    (job,) = running(conn, made)
    db.run(conn, QUERIES.jobs.cancel([job.id], "not wanted"))
    assert not replace(conn, job)
    assert (state(conn, job.id), workflow_state(conn, made.id)) == ("cancelled", "cancelled")


def test_a_cancelled_job_stops_its_stand_in_while_a_member_of_that_ends(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(1))
    (job,) = running(conn, made)
    assert replace(conn, job)
    (member,) = claim(conn).values()
    a, b = connect(), connect()
    db.run(a, QUERIES.jobs.cancel([job.id], "not wanted"))
    with at_once(b):
        end(b, (member, DONE))
    b.commit()
    a.commit()
    tidy(conn)
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    assert workflow_state(conn, made.id) == "cancelled"


def test_a_retry_counts_a_stand_in_that_has_ended_and_is_not_settled_once(conn: Conn) -> None:
    """The job in whose place it ran was cancelled meanwhile, so the workflow has ended without it."""
    made = insert(conn, graph(2))
    first, second = running(conn, made)
    assert replace(conn, second)
    end(conn, *((job, DONE) for job in claim(conn).values()))
    last = claim(conn)
    db.run(conn, QUERIES.jobs.cancel([second.id], "not wanted"))
    end(conn, (first, DEAD))
    tidy(conn)
    end(conn, *((job, DONE) for job in last.values()))
    assert scalar(conn, "select count(*) from pgqueue.workflow where state <> 'running' and not settled") == 1
    conn.execute(
        "insert into pgqueue.dependency (parent_id, child_id, ord, runs_after, workflow_id)"
        " values (%s, %s, 9, 'e', %s)",
        (first.id, second.id, made.id),
    )
    assert retry(conn, made.id).revived == 2
    tidy(conn)
    assert (state(conn, first.id), state(conn, second.id)) == ("pending", "blocked")
