"""Graphs as rows: inserted whole, and moved on by the statement that ends a job."""

import pytest

from pgqueue import db
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, add_worker, new_job
from tests.statements.graphs import DEAD, DONE, claim, end, graph, insert, run_all, states, tidy, workflow_state


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture(autouse=True, params=["with a result", "counted", "tied"])
def success(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each job succeed with a result, and without one: then SUCCEED_COUNTED writes members that nothing waits for,
    and RESOLVE_TIED must write the same, for it gets them in a batch with others."""
    if request.param == "with a result":
        return
    monkeypatch.setattr("tests.statements.graphs.DONE", PLAIN_SUCCESS)
    monkeypatch.setitem(globals(), "DONE", PLAIN_SUCCESS)
    if request.param == "tied":
        monkeypatch.setattr("tests.statements.graphs.is_counted", lambda *_: False)


def test_a_graph_is_inserted_with_what_can_run_pending_and_the_rest_blocked(conn: Conn) -> None:
    made = insert(conn, graph(4, [(0, 2), (1, 2), (2, 3)]))
    assert states(conn, made) == "ppbb"
    assert made.jobs == sorted(made.jobs)
    rows = conn.execute(
        "select waits_on, ties, waits_for from pgqueue.job_live where workflow_id = %s order by id", (made.id,)
    ).fetchall()
    assert rows == [(None, 3, None), (None, 3, None), (2, 3, "jobs"), (1, 2, "jobs")]
    assert scalar(conn, "select jobs || state from pgqueue.workflow") == "4running"
    assert scalar(conn, "select count(*) from pgqueue.transition") == 4


def test_a_graph_of_a_transaction_that_is_rolled_back_was_never_there(conn: Conn) -> None:
    with conn.transaction(force_rollback=True):
        insert(conn, graph(2, [(0, 1)]))
    for table in ("job_live", "workflow", "gate", "dependency", "transition"):
        assert scalar(conn, f"select count(*) from pgqueue.{table}") == 0


def test_a_chain_runs_link_by_link_and_ends_its_workflow(conn: Conn) -> None:
    add_worker(conn)
    made = insert(conn, graph(3, [(0, 1), (1, 2)]))
    for n in range(3):
        (job,) = claim(conn).values()
        assert job.id == made.jobs[n]
        told = end(conn, (job, DONE))
        assert told.moved == {job.id}
        assert told.ready == set(made.jobs[n + 1 : n + 2])
    assert states(conn, made) == "sss"
    assert workflow_state(conn, made.id) == "succeeded"


def test_a_child_of_two_that_end_in_one_batch_is_released_once(conn: Conn) -> None:
    add_worker(conn)
    made = insert(conn, graph(3, [(0, 2), (1, 2)]))
    told = end(conn, *((job, DONE) for job in claim(conn).values()))
    assert told.ready == {made.jobs[2]}
    released = "select count(*) from pgqueue.transition where job_id = %s and from_state = 'blocked'"
    assert scalar(conn, released, made.jobs[2]) == 1


def test_what_depends_on_a_dead_letter_is_skipped_and_the_rest_runs(conn: Conn) -> None:
    made = insert(conn, graph(6, [(0, 1), (1, 2), (0, 3, "f"), (0, 4, "e"), (5, 2)]))
    run_all(conn, made, {0})
    assert states(conn, made) == "fccsss"
    assert workflow_state(conn, made.id) == "failed"
    reasons = "select array_agg(distinct reason) from pgqueue.job_finished where state = 'cancelled'"
    assert scalar(conn, reasons) == ["skipped"]


def test_a_branch_that_was_for_a_failure_is_skipped_and_the_workflow_succeeds(conn: Conn) -> None:
    made = insert(conn, graph(3, [(0, 1, "f"), (0, 2, "e")]))
    run_all(conn, made)
    assert states(conn, made) == "scs"
    assert workflow_state(conn, made.id) == "succeeded"


def test_a_chain_of_two_thousand_below_a_dead_letter_is_cancelled_in_batches(conn: Conn) -> None:
    add_worker(conn)
    made = insert(conn, graph(2001, [(n, n + 1) for n in range(2000)]))
    (job,) = claim(conn).values()
    assert end(conn, (job, DEAD)).doomed
    cascades = 0
    while db.run(conn, QUERIES.workflows.cascade(500)).moved:
        cascades += 1
    assert cascades == 4
    assert states(conn, made) == "f" + "c" * 2000
    assert workflow_state(conn, made.id) == "failed"


@pytest.mark.parametrize(("dead", "expected"), [(set(), "ssscss"), ({1}, "sfsscs")])
def test_callbacks_of_a_workflow_run_by_how_it_ended(conn: Conn, dead: set[int], expected: str) -> None:
    made = Graph(
        [new_job() for _ in range(6)],
        [0, 0, 0, None, None, None],
        [Edge(-1, 3, "f"), Edge(-1, 4, "s"), Edge(-1, 5, "e")],
        [Group("w")],
    )
    inserted = insert(conn, made)
    run_all(conn, inserted, dead)
    assert states(conn, inserted) == expected
    assert workflow_state(conn, inserted.id) == ("failed" if dead else "succeeded")
    assert scalar(conn, "select settled from pgqueue.workflow")


def test_a_group_within_is_a_member_that_ends_with_its_own_members(conn: Conn) -> None:
    chord = Graph(
        [new_job() for _ in range(5)],
        [1, 1, 2, 0, 0],
        [Edge(-2, 3), Edge(3, 4)],
        [Group("w"), Group("header", parent=0), Group("deep", parent=1)],
    )
    made = insert(conn, chord)
    assert states(conn, made) == "pppbb"
    run_all(conn, made)
    assert states(conn, made) == "sssss"
    assert [workflow_state(conn, group) for group in made.groups] == ["succeeded"] * 3
    assert scalar(conn, "select sum(remaining) from pgqueue.gate") == 0


def test_a_failure_deep_within_fails_each_group_around_it(conn: Conn) -> None:
    chord = Graph(
        [new_job() for _ in range(4)],
        [2, 1, 0, 0],
        [Edge(-2, 2), Edge(2, 3)],
        [Group("w"), Group("header", parent=0), Group("deep", parent=1)],
    )
    made = insert(conn, chord)
    run_all(conn, made, {0})
    assert states(conn, made) == "fscc"
    assert [workflow_state(conn, group) for group in made.groups] == ["failed"] * 3


def test_a_large_group_is_counted_by_sixteen_gates(conn: Conn) -> None:
    made = insert(conn, graph(100))
    rows = conn.execute("select members, remaining from pgqueue.gate order by id").fetchall()
    assert rows == [(7, 7)] * 4 + [(6, 6)] * 12
    run_all(conn, made)
    assert workflow_state(conn, made.id) == "succeeded"


def test_a_stopped_workflow_ends_what_has_not_begun_at_the_first_failure(conn: Conn) -> None:
    add_worker(conn)
    made = insert(conn, graph(4, [(2, 3)], on_failure="stop"))
    taken = list(claim(conn, 2).values())
    assert end(conn, (taken[0], DEAD)).unsettled
    tidy(conn)
    assert states(conn, made) == "frcc"
    end(conn, (taken[1], DONE))
    tidy(conn)
    assert states(conn, made) == "fscc"
    assert workflow_state(conn, made.id) == "failed"


def test_a_group_that_stops_leaves_the_groups_beside_it_alone(conn: Conn) -> None:
    add_worker(conn)
    made = insert(
        conn,
        Graph(
            [new_job(priority=4 - n) for n in range(5)],
            [1, 1, 2, 3, 0],
            [],
            [Group("w"), Group("stops", 0, "stop"), Group("in it", 1), Group("beside", 0)],
        ),
    )
    (job,) = claim(conn, 1).values()
    end(conn, (job, DEAD))
    tidy(conn)
    assert states(conn, made) == "fccpp"


def test_a_workflow_that_holds_waits_until_its_dead_letter_is_redriven(conn: Conn) -> None:
    made = insert(conn, graph(2, [(0, 1)], on_failure="hold"))
    run_all(conn, made, {0})
    assert states(conn, made) == "fb"
    assert workflow_state(conn, made.id) == "running"
    assert db.run(conn, QUERIES.dead.redrive(0, [made.jobs[0]], "redriven", {})) == 1
    run_all(conn, made)
    assert states(conn, made) == "ss"
    assert workflow_state(conn, made.id) == "succeeded"


def test_a_workflow_that_holds_fails_when_its_dead_letter_is_discarded(conn: Conn) -> None:
    made = insert(conn, graph(3, [(0, 1), (0, 2, "f")], on_failure="hold"))
    run_all(conn, made, {0})
    assert db.run(conn, QUERIES.dead.discard([made.jobs[0]], "discarded")) == 1
    tidy(conn)
    run_all(conn, made)
    assert states(conn, made) == "ccs"
    assert workflow_state(conn, made.id) == "failed"


def test_a_dead_letter_that_its_workflow_has_counted_is_not_redriven_alone(conn: Conn) -> None:
    made = insert(conn, graph(2, [(0, 1)]))
    run_all(conn, made, {0})
    assert db.run(conn, QUERIES.dead.redrive(0, [made.jobs[0]], "redriven", {})) == 0
    assert db.run(conn, QUERIES.jobs.restore([made.jobs[1]], "restored")) == []
    assert states(conn, made) == "fc"


def test_a_metered_child_waits_for_its_turn_once_its_parents_have_ended(conn: Conn) -> None:
    add_worker(conn)
    made = insert(conn, graph(2, [(0, 1)], flow=Flow(("r/a",))))
    assert scalar(conn, "select array_agg(waits_for order by id) from pgqueue.job_live") == ["turn", "jobs"]
    conn.execute("update pgqueue.job_live set lane = null, headers = '{}', state = 'pending', waits_for = null"
                 " where id = %s", (made.jobs[0],))  # fmt: skip
    (job,) = claim(conn).values()
    assert end(conn, (job, DONE)).ready == {made.jobs[1]}
    row = conn.execute("select state, waits_for, waits_on from pgqueue.job_live").fetchone()
    assert row == ("blocked", "turn", 0)
    assert scalar(conn, "select count(*) from pgqueue.transition where reason = 'ready'") == 1


def test_a_member_without_children_still_counts_down_its_gate_when_it_is_retried(conn: Conn) -> None:
    add_worker(conn)
    made = insert(conn, graph(1))
    (job,) = claim(conn).values()
    end(conn, (job, Resolution("retry", "error")))
    assert workflow_state(conn, made.id) == "running"
    run_all(conn, made)
    assert workflow_state(conn, made.id) == "succeeded"
    assert scalar(conn, "select remaining from pgqueue.gate") == 0


def test_a_graph_of_ten_thousand_nodes_and_twenty_thousand_edges_is_one_statement(conn: Conn) -> None:
    edges = [Edge(n - gap, n) for n in range(100, 10_100) for gap in (3, 100)]
    made = insert(conn, Graph([new_job() for _ in range(10_100)], [0] * 10_100, edges, [Group("big")]))
    first, last = made.jobs[100], made.jobs[-1]
    counted = "select count(*), min(waits_on), max(waits_on) from pgqueue.job_live where id between %s and %s"
    assert conn.execute(counted, (first, last)).fetchone() == (10_000, 2, 2)
    assert scalar(conn, "select count(*) from pgqueue.dependency") == 20_000


def test_stopped_workflows_that_only_wait_keep_no_other_from_being_stopped(conn: Conn) -> None:
    add_worker(conn)
    waiting = [insert(conn, graph(1)) for _ in range(101)]
    claim(conn)
    for one in waiting:
        assert db.run(conn, QUERIES.workflows.request_stop(one.id, "not wanted"))
    tidy(conn)
    last = insert(conn, graph(2))
    assert db.run(conn, QUERIES.workflows.request_stop(last.id, "not wanted"))
    tidy(conn)
    assert states(conn, last) == "cc"
