"""Graphs for tests of statements: short ways to make them, and to end their jobs."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

from pgqueue import db
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.queries.jobs.resolve import is_counted
from pgqueue.queries.jobs.ties import TiedEnds
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.queries.workflows.retry import Revived
from pgqueue.workflows.gates import CALLED, CHILDREN, GATED, LATE
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.conftest import scalar
from tests.harness import QUERIES, WORKER, Conn, add_worker, new_job

DEAD = Resolution("dead_letter", "error")
DONE = Resolution("succeed", result="1")


def graph(
    nodes: int, edges: Iterable[tuple[int, int] | tuple[int, int, str]] = (), *, outside: Sequence[int] = (),
    on_failure: str = "cancel", flow: Flow | None = None, **options: Any,
) -> Graph:  # fmt: skip
    """Return a workflow of so many nodes, which are its members but for those `outside`."""
    jobs = [new_job(flow=flow, args=f'{{"n": {n}}}', **options) for n in range(nodes)]
    members = [None if n in outside else 0 for n in range(nodes)]
    return Graph(jobs, members, [Edge(*edge) for edge in edges], [Group("w", on_failure=on_failure)])


def insert(conn: Conn, made: Graph) -> InsertedWorkflow:
    return db.run(conn, QUERIES.workflows.enqueue(made))


def claim(conn: Conn, room: int = 1000, worker: UUID = WORKER) -> dict[int, ClaimedJob]:
    """Claim what is due, by id."""
    return {job.id: job for job in db.run(conn, QUERIES.jobs.claim(worker, {"default": room}, room))}


def end(conn: Conn, *ends: tuple[ClaimedJob, Resolution]) -> TiedEnds:
    """Write how attempts ended, of jobs with ties and of others, by the statements by which a worker writes it. What is
    for SUCCEED_COUNTED, it must write: only a job of which others wait for the end by now is left to RESOLVE_TIED."""
    tied = [entry for entry in ends if entry[0].ties is not None]
    plain = [entry for entry in ends if entry[0].ties is None]
    told = TiedEnds(set(), set(), False, False)
    if tied and all(is_counted(*entry) for entry in tied):
        told = db.run(conn, QUERIES.jobs.succeed_counted(tied))
        tied = [entry for entry in tied if entry[0].id not in told.moved]
        assert still_counted(conn, [job for job, _ in tied]) == []
    if tied:
        more = db.run(conn, QUERIES.jobs.resolve_tied(tied))
        told = more._replace(moved=more.moved | told.moved, unsettled=more.unsettled or told.unsettled)
    if plain:
        told = told._replace(moved=told.moved | db.run(conn, QUERIES.jobs.resolve(plain)))
    return told


def still_counted(conn: Conn, jobs: Sequence[ClaimedJob]) -> list[int]:
    """Return which of these jobs run under their lease, and have nothing that waits for their end but their gate."""
    rows = conn.execute(
        "select id, lease, coalesce(ties, 0) from pgqueue.job_live where state = 'running' and id = any(%s)",
        ([job.id for job in jobs],),
    ).fetchall()
    leases = {job.id: job.lease for job in jobs}
    return [
        job for job, lease, ties in rows if leases[job] == lease and ties & (CHILDREN | GATED | CALLED | LATE) == GATED
    ]


def states(conn: Conn, made: InsertedWorkflow) -> str:
    """Return the first letter of each job's state, in the order of the graph: b, p, r, s, f, c."""
    rows = conn.execute("select id, state from pgqueue.job where id = any(%s)", (made.jobs,)).fetchall()
    found = {job: state[0] for job, state in rows}
    return "".join(found.get(job, "-") for job in made.jobs)


def workflow_state(conn: Conn, group: int) -> str:
    return str(scalar(conn, "select state from pgqueue.workflow where id = %s", group))


def tidy(conn: Conn) -> None:
    """Do what the duty does, until nothing is left to do."""
    queries = QUERIES.workflows
    for _ in range(1000):
        moved = [db.run(conn, query).moved for query in (queries.stop(500), queries.cascade(500), queries.settle(100))]
        if not any(moved):
            return
    raise AssertionError("the duty finds no end")


def retry(conn: Conn, workflow: int) -> Revived:
    """Bring a workflow back from what failed, as the verb does."""
    with conn.transaction():
        locked = db.run(conn, QUERIES.workflows.lock_for_retry(workflow))
        assert locked is not None
        return db.run(conn, QUERIES.workflows.revive(locked, "retried"))


def run_all(conn: Conn, made: InsertedWorkflow, dead: Collection[int] = ()) -> None:
    """Run what is due until nothing is; the nodes in `dead` fail."""
    add_worker(conn)
    tidy(conn)
    while taken := claim(conn):
        end(conn, *((job, DEAD if made.jobs.index(job.id) in dead else DONE) for job in taken.values()))
        tidy(conn)
