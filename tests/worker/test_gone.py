"""Rows that somebody deletes by hand: a worker finds what waits for them, and what is left of workflows."""

import asyncio
import logging

import pytest

from pgqueue import App, db
from pgqueue.queries.workflows.gone import Place
from pgqueue.worker.duties import gone_finder
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.conftest import scalar, work
from tests.harness import QUERIES, WORKER, Conn, add_worker, new_job
from tests.statements.graphs import DEAD, DONE, claim, end, graph, insert, retry, states, tidy, workflow_state

HOUR_AGO = "update pgqueue.workflow set created_at = created_at - interval '61 minutes'"
START = Place()


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def stuck(conn: Conn, at_most: int = 100, after: Place = START) -> list[int]:
    found, _ = db.run(conn, QUERIES.workflows.doom_stuck(WORKER, at_most, after))
    return sorted(job.id for job in found)


def hollow(conn: Conn) -> list[int]:
    return [one.id for one in db.run(conn, QUERIES.workflows.end_hollow(WORKER, 100, None))[0]]


def test_a_worker_ends_what_waits_for_a_parent_that_was_deleted(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gone_finder, "PAUSE", 0.0)
    made = insert(conn, graph(3, [(0, 1), (1, 2)], queue="nobody serves it"))
    conn.execute("delete from pgqueue.job_live where id = %s", (made.jobs[0],))
    conn.execute(HOUR_AGO)
    settled = "select settled from pgqueue.workflow"
    with caplog.at_level(logging.ERROR, "pgqueue.worker"):
        asyncio.run(work(app, lambda: scalar(conn, settled)))
    assert states(conn, made) == "-cc"
    assert workflow_state(conn, made.id) == "cancelled"
    assert "of workflow 1 waits for what is gone" in caplog.text
    reasons = "select reason from pgqueue.transition where job_id = %s order by at"
    assert [row[0] for row in conn.execute(reasons, (made.jobs[1],))] == [None, "parent gone", "skipped"]


def test_only_jobs_that_can_never_go_on_are_doomed(conn: Conn) -> None:
    """Of six children, those of a deleted parent and of a deleted group; not those whose parents live, hold or told."""
    held = insert(conn, graph(2, [(0, 1)], on_failure="hold"))
    told = insert(conn, graph(4, [(0, 2), (1, 2), (1, 3)]))
    of_group = insert(conn, Graph([new_job(), new_job()], [1, 0], [Edge(-2, 1)], [Group("w"), Group("g", parent=0)]))
    add_worker(conn, worker=WORKER)
    taken = claim(conn)
    end(conn, (taken[held.jobs[0]], DEAD), (taken[told.jobs[0]], DONE))
    conn.execute("delete from pgqueue.job_finished")  # it has told
    assert stuck(conn) == []
    conn.execute(HOUR_AGO)
    assert stuck(conn) == []
    conn.execute("delete from pgqueue.job_live where id = %s", (told.jobs[1],))
    conn.execute("delete from pgqueue.workflow where name = 'g'")
    assert stuck(conn) == [*told.jobs[2:], of_group.jobs[1]]
    assert stuck(conn) == []
    tidy(conn)
    assert states(conn, held) == "fb"
    assert states(conn, told) == "--cc"


def test_a_walk_goes_on_where_it_has_ended_and_one_worker_walks(conn: Conn) -> None:
    made = insert(conn, graph(6, [(0, child) for child in range(1, 6)]))
    conn.execute("delete from pgqueue.job_live where id = %s", (made.jobs[0],))
    conn.execute(HOUR_AGO)
    walk = QUERIES.workflows.doom_stuck(WORKER, 3, START)
    assert db.run(conn, walk) == ([], None)  # nobody lives
    add_worker(conn, worker=WORKER)
    found, reached = db.run(conn, walk)
    assert (sorted(job.id for job in found), reached) == (made.jobs[1:4], (made.jobs[3], None, made.id))
    found, reached = db.run(conn, QUERIES.workflows.doom_stuck(WORKER, 3, Place(made.id, made.jobs[3])))
    assert (sorted(job.id for job in found), reached) == (made.jobs[4:], None)


def test_a_workflow_whose_members_are_gone_ends_with_its_groups(conn: Conn) -> None:
    """A group in a group; job 2 runs after the inner one has ended, in whatever way, and job 3 after all."""
    groups = [Group("w"), Group("outer", parent=0), Group("inner", parent=1)]
    made = insert(
        conn, Graph([new_job() for _ in range(4)], [2, 1, None, None], [Edge(-3, 2, "e"), Edge(-1, 3)], groups)
    )
    living = insert(conn, graph(1))
    failed = insert(conn, graph(1))
    add_worker(conn, worker=WORKER)
    conn.execute("delete from pgqueue.job_live where id = any(%s)", (made.jobs[:2],))
    assert hollow(conn) == []
    conn.execute(HOUR_AGO)
    assert hollow(conn) == [made.id]
    tidy(conn)
    assert hollow(conn) == []
    assert workflow_state(conn, made.id) == "cancelled"
    assert states(conn, made) == "--pc"
    assert scalar(conn, "select count(*) from pgqueue.workflow where state = 'running' and root_id = id") == 2
    assert (
        scalar(conn, "select sum(remaining) from pgqueue.gate where workflow_id <> all(%s)", [living.id, failed.id])
        == 0
    )
    taken = claim(conn)
    end(conn, (taken[failed.jobs[0]], DEAD))
    tidy(conn)
    assert retry(conn, failed.id).revived == 1
