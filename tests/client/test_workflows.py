"""`app.workflows`: graphs are checked and inserted, seen, waited for, cancelled and retried."""

import asyncio
from collections.abc import Callable

import pytest

from pgqueue import (
    App,
    DeadFilter,
    InvalidOption,
    InvalidWorkflow,
    OlderReleaseRuns,
    UnknownWorkflow,
    WaitTimeout,
    WorkflowIncomplete,
    WorkflowRunning,
)
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.conftest import drain, scalar
from tests.harness import Conn, add_worker, new_job
from tests.statements.graphs import DEAD, DONE, claim, end, graph, run_all, states, tidy


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def broken(**parts: object) -> Graph:
    """A graph of two jobs, of which one part is another."""
    sound = graph(2, [(0, 1)])
    for name, part in parts.items():
        setattr(sound, name, part)
    return sound


UNSOUND = {
    "a circle": (broken(edges=[Edge(0, 1), Edge(1, 0)]), "in a circle: 0 (t), 1 (t)"),
    "a job that waits for itself": (broken(edges=[Edge(1, 1)]), "in a circle: 1 (t)"),
    "a member that waits for its group": (broken(edges=[Edge(-1, 0)]), "in a circle"),
    "a group without members": (broken(groups=[Group("w"), Group("empty", 0)]), "workflow empty has no jobs"),
    "no jobs": (Graph([], [], [], [Group("w")]), "has no jobs"),
    "no groups": (broken(groups=[]), "has no groups"),
    "an edge to a group": (broken(edges=[Edge(0, -1)]), "leads to no job"),
    "an edge from nowhere": (broken(edges=[Edge(7, 1)]), "leads to no job"),
    "a group that is its own parent": (broken(groups=[Group("w"), Group("g", 1)]), "no member of a group"),
    "an end that does not exist": (broken(edges=[Edge(0, 1, "x")]), "when='x'"),
    "a policy that does not exist": (broken(groups=[Group("w", None, "retry")]), "on_failure='retry'"),
    "a name of two lines": (broken(groups=[Group("a\nb")]), "cannot be called"),
    "too few groups": (broken(group_of=[0]), "group_of has 1 entries for 2 jobs"),
    "a group out of range": (broken(group_of=[0, 5]), "does not have"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_a_graph_that_cannot_run_is_refused_before_anything_is_written(app: App, conn: Conn, name: str) -> None:
    unsound, why = UNSOUND[name]
    with pytest.raises(InvalidWorkflow) as raised:
        app.workflows.enqueue(unsound)
    assert why in str(raised.value)
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0


def test_a_workflow_is_enqueued_with_the_rows_of_its_caller_or_not_at_all(
    app: App, conn: Conn, connect: Callable[[], Conn]
) -> None:
    borrowed = connect()
    made = app.workflows.using(borrowed).enqueue(graph(2, [(0, 1)]))
    with pytest.raises(UnknownWorkflow, match="never committed"):
        app.workflows.get(made.id)
    borrowed.commit()
    status = app.workflows.get(made.id)
    assert (status.name, status.state, status.jobs, status.waiting) == ("w", "running", 2, 2)
    assert app.workflows.list("running") == [status]
    assert app.workflows.list("failed") == []


def test_a_group_within_a_workflow_is_not_taken_for_one(app: App) -> None:
    made = app.workflows.enqueue(Graph([new_job()], [1], [], [Group("w"), Group("g", 0)]))
    for verb in (app.workflows.get, app.workflows.jobs, app.workflows.cancel, app.workflows.retry):
        with pytest.raises(UnknownWorkflow, match="is a group within a workflow"):
            verb(made.groups[1])


def test_a_wait_ends_with_the_workflow(app: App, conn: Conn) -> None:
    made = app.workflows.enqueue(graph(2, [(0, 1)]))
    with pytest.raises(WaitTimeout, match="it goes on"):
        app.workflows.wait(made.id, 0.05)
    run_all(conn, made)
    assert app.workflows.wait(made.id, 5).state == "succeeded"
    assert asyncio.run(app.workflows.await_end(made.id, 5)).state == "succeeded"


def test_a_workflow_is_cancelled_without_a_worker(app: App, conn: Conn) -> None:
    made = app.workflows.enqueue(graph(1200, [(n, n + 1) for n in range(1199)]))
    assert app.workflows.cancel(made.id, "not wanted")
    assert states(conn, made) == "c" * 1200
    assert app.workflows.wait(made.id, 5).state == "cancelled"
    assert not app.workflows.cancel(made.id)
    assert {job.reason for job in app.workflows.jobs(made.id)} == {"not wanted", "skipped"}


def test_a_retry_says_why_it_cannot_be_done(app: App, conn: Conn) -> None:
    made = app.workflows.enqueue(graph(3, [(0, 1), (1, 2)]))
    with pytest.raises(WorkflowRunning, match="wait for its end, or cancel it"):
        app.workflows.retry(made.id)
    run_all(conn, made, {1})
    conn.execute("delete from pgqueue.job_finished where id = %s", (made.jobs[0],))
    with pytest.raises(WorkflowIncomplete, match=r"1 jobs of workflow \d+ are gone"):
        app.workflows.retry(made.id)
    with pytest.raises(UnknownWorkflow):
        app.workflows.retry(made.jobs[0])


def test_a_failed_workflow_is_retried_and_runs_to_its_end(app: App, conn: Conn) -> None:
    fails = [True]

    @app.task(name="t", max_attempts=1)
    def t(n: int) -> int:
        if fails and n == 1:
            raise ValueError(n)
        return n

    made = app.workflows.enqueue(graph(4, [(0, 1), (1, 2), (2, 3)], max_attempts=1))
    drain(app, conn)
    assert app.workflows.wait(made.id, 5).state == "failed"
    assert app.workflows.get(made.id).failed == 1
    fails.clear()
    assert app.workflows.retry(made.id) == 3
    drain(app, conn)
    assert app.workflows.get(made.id).state == "succeeded"
    assert [job.state for job in app.workflows.jobs(made.id)] == ["succeeded"] * 4


def test_a_redrive_of_a_dead_letter_goes_on_with_its_workflow(app: App, conn: Conn) -> None:
    made = app.workflows.enqueue(graph(3, [(0, 1), (1, 2)]))
    run_all(conn, made, {1})
    done = app.dead.redrive(DeadFilter(ids=[made.jobs[1]]))
    assert done.done == 1
    assert states(conn, made) == "spb"
    run_all(conn, made)
    assert states(conn, made) == "sss"


def test_a_redrive_skips_dead_letters_of_workflows_that_run(app: App, conn: Conn) -> None:
    made = app.workflows.enqueue(graph(3, [(0, 1), (1, 2)]))
    plain = app.workflows.enqueue(graph(1))
    add_worker(conn)
    taken = claim(conn)
    end(conn, (taken[made.jobs[0]], DEAD), (taken[plain.jobs[0]], DEAD))
    assert app.workflows.get(made.id).state == "running"
    assert app.dead.redrive(DeadFilter(ids=[made.jobs[0]])).done == 0
    with pytest.raises(WorkflowRunning):
        app.retry(made.jobs[0])
    tidy(conn)
    assert app.retry(made.jobs[2]).state == "blocked"
    assert states(conn, made) == "pbb"


def test_why_names_the_jobs_and_groups_for_which_a_job_waits(app: App, conn: Conn) -> None:
    nodes = [new_job() for _ in range(4)]
    made = app.workflows.enqueue(
        Graph(nodes, [1, 0, 0, 0], [Edge(-2, 3), Edge(1, 3), Edge(2, 3, "f")], [Group("w"), Group("header", 0)])
    )
    add_worker(conn)
    end(conn, (claim(conn)[made.jobs[1]], DONE))
    (reason, *_) = app.why(made.jobs[3]).reasons
    assert reason.code == "waits_for_jobs"
    assert reason.text == (
        f"It waits for 2 of 3: header {made.groups[1]} (running) to succeed, t {made.jobs[2]} (running) to fail."
    )
    conn.execute("update pgqueue.job_live set cancel_requested_at = now() where id = %s", (made.jobs[3],))
    assert app.why(made.jobs[3]).reasons[0].code == "skipped"


def why(app: App, job: int) -> dict[str, str]:
    return {reason.code: reason.text for reason in app.why(job).reasons}


def test_why_of_a_skipped_job_names_the_job_because_of_which_and_how_that_ended(app: App, conn: Conn) -> None:
    """Also where that one was skipped itself: then the first cause, too."""
    made = app.workflows.enqueue(graph(4, [(0, 1), (1, 2), (3, 2)]))
    pay, ship, mail, _ = made.jobs
    taken = claim(conn)
    end(conn, (taken[pay], DEAD))
    assert why(app, ship)["skipped_for"] == (
        f"It is skipped because of t {pay}, which was to succeed: it failed for good."
    )
    tidy(conn)
    assert why(app, ship)["skipped_for"] == (
        f"It was skipped because of t {pay}, which was to succeed: it failed for good."
    )
    assert why(app, mail)["skipped_for"] == (
        f"It was skipped because of t {ship}, which was to succeed: it was skipped itself, "
        f"because of t {pay}, which was to succeed: it failed for good."
    )
    (reason,) = [one for one in app.why(mail).reasons if one.code == "skipped_for"]
    assert (reason.facts["parent"], reason.facts["cause"]["id"]) == (ship, pay)
    assert "skipped_for" not in why(app, pay)


def test_why_names_a_group_a_success_and_a_cancel_because_of_which_a_job_is_skipped(app: App, conn: Conn) -> None:
    nodes = [new_job() for _ in range(6)]
    edges = [Edge(-2, 2), Edge(3, 4, "f"), Edge(1, 5)]
    made = app.workflows.enqueue(Graph(nodes, [1, 1, 0, 0, 0, 0], edges, [Group("w"), Group("header", 0)]))
    taken = claim(conn)
    end(
        conn,
        (taken[made.jobs[0]], DEAD),
        (taken[made.jobs[3]], DONE),
        (taken[made.jobs[1]], Resolution("cancel", "not wanted")),
    )
    tidy(conn)
    header = f"because of header {made.groups[1]}, which was to succeed: it failed for good."
    assert header in why(app, made.jobs[2])["skipped_for"]
    succeeded = f"because of t {made.jobs[3]}, which was to fail: it succeeded."
    assert succeeded in why(app, made.jobs[4])["skipped_for"]
    cancelled = f"because of t {made.jobs[1]}, which was to succeed: it was cancelled (not wanted)."
    assert cancelled in why(app, made.jobs[5])["skipped_for"]


def test_no_workflow_is_enqueued_beside_a_worker_that_would_end_its_jobs_without_telling(app: App, conn: Conn) -> None:
    add_worker(conn)
    conn.execute("update pgqueue.worker set knows = '0035'")
    with pytest.raises(OlderReleaseRuns, match="worker h pid 1 version 0 knows no workflows"):
        app.workflows.enqueue(graph(1))
    assert scalar(conn, "select count(*) from pgqueue.workflow") == 0
    conn.execute("update pgqueue.worker set lost_at = now()")
    app.workflows.enqueue(graph(1))


def test_workflows_are_listed_page_by_page_and_by_name(app: App, conn: Conn) -> None:
    made = {}
    for name in ("import eu", "import us", "report_", "reports"):
        sound = graph(1)
        sound.groups[0].name = name
        made[name] = app.workflows.enqueue(sound).id
    assert [one.name for one in app.workflows.list(name="import*")] == ["import us", "import eu"]
    assert [one.id for one in app.workflows.list(name="import*", before=made["import us"])] == [made["import eu"]]
    assert [one.name for one in app.workflows.list(name="report_")] == ["report_"]
    assert [one.name for one in app.workflows.list("running", name="*s", limit=1)] == ["reports"]
    with pytest.raises(InvalidOption, match="name='' cannot be used"):
        app.workflows.list(name="")
