"""Workflows that are cancelled as a whole, and retried from what failed."""

from pgqueue import db
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, add_worker, new_job
from tests.statements.graphs import DONE, claim, end, graph, insert, retry, run_all, states, tidy, workflow_state

SUCCESSES = (
    "select count(*) from pgqueue.transition where to_state = 'succeeded' group by job_id order by 1 desc limit 1"
)


def test_a_retry_runs_what_failed_and_what_was_skipped_under_the_same_ids(conn: Conn) -> None:
    made = insert(conn, graph(5, [(0, 1), (1, 2), (2, 3), (0, 4)]))
    run_all(conn, made, {1})
    assert states(conn, made) == "sfccs"
    assert retry(conn, made.id) == (5, 0, 3)
    assert states(conn, made) == "spbbs"
    assert workflow_state(conn, made.id) == "running"
    assert scalar(conn, "select sum(remaining) from pgqueue.gate") == 3
    run_all(conn, made)
    assert states(conn, made) == "sssss"
    assert workflow_state(conn, made.id) == "succeeded"
    assert scalar(conn, SUCCESSES) == 1


def test_a_retry_that_fails_again_can_be_retried_again(conn: Conn) -> None:
    made = insert(conn, graph(3, [(0, 1), (1, 2)]))
    for _ in range(3):
        run_all(conn, made, {1})
        assert states(conn, made) == "sfc"
        assert workflow_state(conn, made.id) == "failed"
        assert retry(conn, made.id).revived == 2
    run_all(conn, made)
    assert states(conn, made) == "sss"


def test_a_retry_leaves_a_branch_skipped_that_was_for_another_end(conn: Conn) -> None:
    made = insert(conn, graph(5, [(0, 1, "f"), (1, 2), (1, 3, "e"), (0, 4)]))
    run_all(conn, made, {4})
    assert states(conn, made) == "sccsf"
    assert retry(conn, made.id).revived == 1
    run_all(conn, made)
    assert states(conn, made) == "sccss"
    assert workflow_state(conn, made.id) == "succeeded"


def test_a_handler_that_ran_stays_and_does_not_run_again(conn: Conn) -> None:
    made = insert(conn, graph(3, [(0, 1, "f"), (0, 2)]))
    run_all(conn, made, {0})
    assert states(conn, made) == "fsc"
    retry(conn, made.id)
    run_all(conn, made)
    assert states(conn, made) == "sss"
    assert scalar(conn, SUCCESSES) == 1


def test_a_retry_reopens_the_groups_around_what_failed_and_no_others(conn: Conn) -> None:
    chord = Graph(
        [new_job() for _ in range(6)],
        [2, 1, 3, 0, None, None],
        [Edge(-2, 3), Edge(-4, 3), Edge(-1, 4), Edge(-1, 5, "f")],
        [Group("w"), Group("header", 0), Group("deep", 1), Group("beside", 0)],
    )
    made = insert(conn, chord)
    run_all(conn, made, {0})
    assert states(conn, made) == "fsscc" + "s"
    assert retry(conn, made.id).revived == 3
    assert states(conn, made) == "pssbbs"
    assert [workflow_state(conn, group) for group in made.groups] == ["running", "running", "running", "succeeded"]
    run_all(conn, made)
    assert states(conn, made) == "ssssss"
    assert [workflow_state(conn, group) for group in made.groups] == ["succeeded"] * 4


def test_a_callback_that_failed_is_retried_without_its_workflow(conn: Conn) -> None:
    made = insert(conn, Graph([new_job(), new_job()], [0, None], [Edge(-1, 1)], [Group("w")]))
    run_all(conn, made, {1})
    assert (states(conn, made), workflow_state(conn, made.id)) == ("sf", "succeeded")
    assert retry(conn, made.id).revived == 1
    assert (states(conn, made), workflow_state(conn, made.id)) == ("sp", "succeeded")


def test_a_retry_of_a_workflow_of_which_something_is_gone_changes_nothing(conn: Conn) -> None:
    made = insert(conn, graph(3, [(0, 1), (1, 2)]))
    run_all(conn, made, {1})
    conn.execute("delete from pgqueue.job_finished where id = %s", (made.jobs[0],))
    assert retry(conn, made.id) == (2, 0, 0)
    assert workflow_state(conn, made.id) == "failed"


def test_a_retry_of_a_workflow_whose_jobs_live_changes_nothing(conn: Conn) -> None:
    made = insert(conn, graph(2))
    add_worker(conn)
    (job,) = claim(conn, 1).values()
    end(conn, (job, DONE))
    assert retry(conn, made.id) == (1, 1, 0)


def test_a_cancelled_workflow_ends_what_waits_and_asks_what_runs(conn: Conn) -> None:
    add_worker(conn)
    chord = Graph(
        [new_job(priority=9), new_job(), new_job(), new_job(), new_job()],
        [0, 1, 0, None, None],
        [Edge(-2, 2), Edge(-1, 3, "e"), Edge(-1, 4)],
        [Group("w"), Group("header", 0)],
    )
    made = insert(conn, chord)
    (running,) = claim(conn, 1).values()
    assert db.run(conn, QUERIES.workflows.request_stop(made.id, "not wanted"))
    tidy(conn)
    assert states(conn, made) == "rccbb"
    assert scalar(conn, "select cancel_requested_at is not null from pgqueue.job_live where id = %s", running.id)
    end(conn, (running, DONE))
    tidy(conn)
    assert states(conn, made) == "sccpc"
    assert workflow_state(conn, made.id) == "cancelled"
    run_all(conn, made)
    retry(conn, made.id)
    run_all(conn, made)
    assert states(conn, made) == "sssss"


def test_a_workflow_is_read_with_its_jobs_and_edges(conn: Conn) -> None:
    made = insert(conn, graph(3, [(0, 1), (1, 2, "f")]))
    run_all(conn, made)
    status = db.run(conn, QUERIES.workflows.get(made.id))
    assert status is not None
    assert (status.state, status.jobs, status.waiting, status.running, status.ended) == ("succeeded", 3, 0, 0, 3)
    assert db.run(conn, QUERIES.workflows.list(None, None, 10)) == [status]
    jobs = db.run(conn, QUERIES.workflows.jobs(made.id, 10))
    assert [(job.id, job.state, job.reason, job.group) for job in jobs] == [
        (made.jobs[0], "succeeded", None, made.id),
        (made.jobs[1], "succeeded", None, made.id),
        (made.jobs[2], "cancelled", "skipped", made.id),
    ]
    edges = db.run(conn, QUERIES.workflows.edges(made.id, 10))
    assert [(edge.parent, edge.child, edge.when) for edge in edges] == [
        (made.jobs[0], made.jobs[1], "s"), (made.jobs[1], made.jobs[2], "f"),
    ]  # fmt: skip


def test_ten_thousand_skipped_jobs_come_back_in_a_second(conn: Conn) -> None:
    made = insert(conn, graph(10_001, [(0, n) for n in range(1, 10_001)]))
    run_all(conn, made, {0})
    assert retry(conn, made.id).revived == 10_001
    assert scalar(conn, "select count(*) from pgqueue.job_live where waits_on = 1") == 10_000
