"""Workflows and durable steps: what a link, a group, a graph and a step cost, and what those cost that only wait."""

import json
import statistics
import time
from typing import LiteralString

import psycopg

from pgqueue import App, db
from pgqueue.jobs.job import NewJob
from pgqueue.queries import Queries
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.graph import Edge, Graph, Group

from . import track
from .database import BenchDatabase
from .drain import emptied, filled, quantile
from .results import Record
from .session import BenchSession
from .turns import Fill, drained_in_turn

GAPS: LiteralString = """select extract(epoch from b.at - a.at)::float8 * 1000
from pgqueue.transition a join pgqueue.transition b on b.job_id = a.job_id + 1 and b.to_state = 'running'
where a.to_state = 'succeeded'"""
SLEEPERS: LiteralString = """insert into pgqueue.job_live (task, queue, run_at)
select 'noop', 'default', '9000-01-01Z' from generate_series(1, %(n)s)"""
SKIPPED: LiteralString = """select count(*), extract(epoch from max(finished_at))::float8 from pgqueue.job_finished
where workflow_id is not null"""
LINKS = 5
STEPS = 10


def jobs(n: int, *, first: int = 0, task: str = "noop") -> list[NewJob]:
    """Return jobs of a task that notes its number."""
    args = (json.dumps({"i": first + i, "email": "user@example.com"}) for i in range(n))
    return [NewJob(task, text, "default", 0, 1) for text in args]


def insert(database: BenchDatabase, graph: Graph) -> InsertedWorkflow:
    """Insert a graph."""
    return db.run(database.conn, Queries("pgqueue").workflows.enqueue(graph))


def chains(database: BenchDatabase, n: int) -> None:
    """Fill with chains of five, a thousand in a workflow."""
    most = 1000 * LINKS
    for first in range(0, n, most):
        count = min(most, n - first)
        edges = [Edge(at, at + 1) for at in range(count - 1) if (at + 1) % LINKS]
        insert(database, Graph(jobs(count, first=first), [0] * count, edges, [Group("chains")]))


def sleepers(database: BenchDatabase, n: int, sleeping: int = 1_000_000) -> None:
    """Put a million jobs to sleep for ever."""
    database.conn.execute(SLEEPERS, {"n": sleeping})


def chain(session: BenchSession, n: int) -> Record:
    """Run a chain, link by link. `link_p50_ms`: from the end of one to the start of the next."""
    database = session.fresh()
    with session.timed():
        insert(database, Graph(jobs(n), [0] * n, [Edge(at, at + 1) for at in range(n - 1)], [Group("chain")]))
        database.settle()
        record = emptied(session, database, n, session.options())
    gaps = sorted(row[0] for row in database.conn.execute(GAPS).fetchall())
    return record | {"link_p50_ms": round(statistics.median(gaps), 2)}


def against_plain(session: BenchSession, n: int, *, fill: Fill) -> Record:
    """Drain plain jobs, then these, these again and plain ones."""
    return drained_in_turn(session, n, lambda database: fill(database, n))


def beside_sleepers(session: BenchSession, n: int) -> Record:
    """Drain plain jobs with and without a million sleeping ones."""

    def fill(database: BenchDatabase) -> None:
        sleepers(database, n, max(1, int(1_000_000 * session.settings.scale)))
        filled(session, database, "noop", n)

    return drained_in_turn(session, n, fill)


def group(session: BenchSession, n: int) -> Record:
    """Drain a group and its callback by two processes, in turn with plain jobs. `after_ms`: from the last end to the
    start of the callback."""
    after: list[float] = []

    def fill(database: BenchDatabase) -> None:
        made = Graph(jobs(n), [0] * (n - 1) + [None], [Edge(-1, n - 1)], [Group("group")])
        insert(database, made)

    def look(database: BenchDatabase) -> None:
        gap = (
            "select extract(epoch from t.at - w.ended_at)::float8 * 1000 from pgqueue.workflow w, pgqueue.transition t"
        )
        last = " where t.to_state = 'running' and t.job_id = (select max(job_id) from pgqueue.transition)"
        after.append(float(database.conn.execute(gap + last).fetchall()[0][0]))

    record = drained_in_turn(session, n, fill, look, processes=2)
    return record | {"after_ms": round(statistics.median(after), 2)}


def graph(session: BenchSession, n: int) -> Record:
    """Insert graphs of so many nodes and twice as many edges, the median of five."""
    database = session.fresh()
    made = Graph(jobs(n), [0] * n, [e for at in range(n - 2) for e in (Edge(at, at + 1), Edge(at, at + 2))],
                 [Group("graph")])  # fmt: skip
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        with database.conn.transaction():
            insert(database, made)
        taken.append(time.perf_counter() - began)
    return {"jobs": n, "insert_ms": round(statistics.median(taken) * 1000, 1), "ok": True}


def cascade(session: BenchSession, n: int) -> Record:
    """Let the root of so many descendants fail beside a stream of plain jobs. `skipped_ms`: until all are skipped;
    `resolve_p99_ms`: from the end of a body to the commit of a plain job's outcome meanwhile; `retry_ms`: until all are
    back after that, the commit included."""
    database = session.fresh()
    edges = [Edge((at - 1) // 3, at) for at in range(1, n)]
    nodes = [NewJob("unknown to every worker", "{}", "default", 0, 1), *jobs(n - 1, first=10**9)]
    made = insert(database, Graph(nodes, [0] * n, edges, [Group("tree")]))
    root = made.jobs[0]
    with session.timed(), session.working(["-c", "20"]), psycopg.connect(database.dsn, autocommit=True) as conn:
        database.settle()
        sent = 0
        sent += _stream(session, database, sent, 1.0)
        began = float(database.value("select extract(epoch from clock_timestamp())"))
        conn.execute("select 1")
        db.run(conn, Queries("pgqueue").jobs.cancel([root], "the root fails"))
        sent += _stream(session, database, sent, 3.0)
        track.wait_for(session.track, sent, 20)
        deadline = time.time() + 20
        while database.value("select count(*) from pgqueue.job_live where workflow_id is not null"):
            if time.time() > deadline:
                break
            time.sleep(0.01)
        time.sleep(0.5)
        skipped, skipped_at = conn.execute(SKIPPED).fetchall()[0]
        retry_ms, revived = _retried(database, made.id)
    ended = dict(database.conn.execute(
        "select (args ->> 'i')::int, extract(epoch from finished_at)::float8 from pgqueue.job_finished"
        " where workflow_id is null").fetchall())  # fmt: skip
    waits = sorted(ended[one.i] - one.at for one in track.read(session.track) if one.i in ended and one.at >= began)
    return {"jobs": n, "skipped_ms": round(1000 * (skipped_at - began), 1), "resolve_p99_ms": quantile(waits, 0.99),
            "retry_ms": retry_ms, "ok": skipped == revived == n and len(ended) == sent}  # fmt: skip


def _retried(database: BenchDatabase, workflow: int) -> tuple[float, int]:
    """Bring a workflow back by its verb; return how many milliseconds that took, and how many jobs came back."""
    app = App(database.dsn)
    app.workflows.get(workflow)  # opens the connection
    began = time.perf_counter()
    revived = app.workflows.retry(workflow)
    taken = time.perf_counter() - began
    app.close()
    return round(1000 * taken, 1), revived


def _stream(session: BenchSession, database: BenchDatabase, first: int, seconds: float) -> int:
    """Enqueue a plain job a hundred times a second; return how many."""
    until, sent = time.time() + seconds, 0
    while time.time() < until:
        made = jobs(1, first=first + sent)[0]
        insert_one: LiteralString = """with made as (
            insert into pgqueue.job_live (task, queue, args) values ('noop', 'default', %s) returning id)
        insert into pgqueue.transition (job_id, to_state) select id, 'pending' from made"""
        database.conn.execute(insert_one, [made.args])
        sent += 1
        time.sleep(0.01)
    return sent


def steps(session: BenchSession, n: int) -> Record:
    """Run jobs of ten recorded steps each. `steps_s`: steps in a second."""
    database = session.fresh()
    filled(session, database, "ten_steps", n)
    with session.timed():
        record = emptied(session, database, n, session.options())
    recorded = int(database.value("select count(*) from pgqueue.step"))
    return record | {"steps_s": round(recorded / record["seconds"], 1), "ok": record["ok"] and recorded == STEPS * n}
