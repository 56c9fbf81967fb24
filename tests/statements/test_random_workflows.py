"""Random workflows, played by one process, become what the oracle foresees; a retry runs no success again."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgqueue import db
from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.graph import Graph
from tests.conftest import scalar
from tests.harness import QUERIES, Conn
from tests.statements.graphs import DEAD, end, insert, retry, tidy
from tests.stress.checks_woven import check_woven
from tests.stress.finish import HELD, release
from tests.stress.plans import plan
from tests.stress.scene import Scene, done
from tests.stress.woven import load
from tests.stress.woven_shop import DEED, REDRIVES, TABLES

TURNS = 300
FORGET = "; ".join(
    f"delete from {table}"
    for table in (
        "pgqueue.job_live", "pgqueue.job_finished", "pgqueue.dead_letter", "pgqueue.transition", "pgqueue.workflow",
        "pgqueue.gate", "pgqueue.dependency", "stress.deed", "stress.settling",
    )
)  # fmt: skip


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def scene(conn: Conn, dsn: str) -> Scene:
    conn.execute("drop schema if exists stress cascade")
    conn.execute(TABLES)
    return Scene(conn, dsn)


def unmetered(graph: Graph) -> Graph:
    """The same graph without limits: one process claims all that is due."""
    return Graph([replace(job, flow=None) for job in graph.nodes], graph.group_of, graph.edges, graph.groups)


def finish(scene: Scene, job: ClaimedJob) -> None:
    """End a job as its arguments say."""
    payload = json.loads(job.args)["payload"]
    if payload["dies"] > scalar(scene.conn, REDRIVES, job.id):
        end(scene.conn, (job, DEAD))
        return
    if job.task == "node_exact":
        scene.conn.execute(DEED, (job.id, job.lease, "exact", "n", None))
    end(scene.conn, (job, done(job)))


def play(scene: Scene, made: InsertedWorkflow, unwanted: Sequence[int]) -> None:
    """Run all that is due and end what is held, until nothing lives; between two turns somebody cancels a job."""
    left = [made.jobs[number % len(made.jobs)] for number in unwanted]
    for _ in range(TURNS):
        for job in scene.take():
            finish(scene, job)
        if left:
            db.run(scene.conn, QUERIES.jobs.cancel([left.pop()], "by hand"))
        db.run(scene.conn, QUERIES.jobs.expire(100))
        tidy(scene.conn)
        for (job_id,) in scene.conn.execute(HELD).fetchall():
            release(scene.conn, job_id, again=job_id % 2 == 0)
        tidy(scene.conn)
        if not scalar(scene.conn, "select count(*) from pgqueue.job_live"):
            return
    raise AssertionError("the workflow does not end")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    unwanted=st.lists(st.lists(st.integers(0, 100), max_size=3), min_size=1, max_size=3),
)
def test_a_random_workflow_becomes_what_the_oracle_foresees(
    scene: Scene, dsn: str, seed: int, unwanted: list[list[int]]
) -> None:
    """`unwanted`: who is cancelled in each life; the workflow is retried between two."""
    scene.conn.execute(FORGET)
    graph = unmetered(plan(f"w.small.{seed}").graph)
    made = insert(scene.conn, graph)
    for life, cancelled in enumerate(unwanted):
        if life == 0 or retry(scene.conn, made.id).revived:
            play(scene, made, cancelled)
            assert check_woven(load(dsn, {made.id: graph})) == []
