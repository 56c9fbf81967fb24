"""The scene of a scenario: a database, and what one process does in it by pgqueue's own statements."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import psycopg

from pgqueue import db
from pgqueue.jobs.job import ClaimedJob, NewJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.tasks.inputs import with_inputs
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.harness import QUERIES, WORKER, Conn, InThread, add_worker, new_job, wait_for
from tests.statements.graphs import claim, end, insert, tidy

from .growing_shop import OVER
from .violation import Violation
from .woven_shop import DEED

Graphs = dict[int, Graph]
DEAD = Resolution("dead_letter", "rejected")
BLOCKED = "select cardinality(pg_blocking_pids(%s)) > 0"
# Holds up a statement that deletes jobs, in a session that asks for it: it has its snapshot, and has locked no row yet.
HOLD_UP = """
create function stress.hold_up() returns trigger language plpgsql as $$
begin
    if current_setting('stress.held_up', true) = 'on' then perform pg_advisory_xact_lock(4243); end if;
    return null;
end $$;
create trigger hold_up before delete on pgqueue.job_live for each statement execute function stress.hold_up()"""
HELD_UP = "select set_config('stress.held_up', 'on', true)"


class Scene:
    """A database with what a scenario does in it. `graphs`: of the workflows that it has made."""

    def __init__(self, conn: Conn, dsn: str) -> None:
        self.conn, self.dsn = conn, dsn
        self.graphs: Graphs = {}
        self.seen: list[Violation] = []
        add_worker(conn, worker=WORKER)

    def open(self) -> Conn:
        """Open a connection in a transaction."""
        return psycopg.connect(self.dsn, options="-c search_path= -c deadlock_timeout=20ms")

    def make(
        self, nodes: int, edges: list[Edge], *, dies: Mapping[int, int] = {}, outside: int = 0
    ) -> InsertedWorkflow:
        """Insert a workflow; the last nodes are `outside`: callbacks."""
        groups = [0 if n < nodes - outside else None for n in range(nodes)]
        return self.insert(Graph(nodes_of(nodes, dies), list(groups), edges, [Group("w")]))

    def insert(self, graph: Graph) -> InsertedWorkflow:
        """Insert a workflow."""
        made = insert(self.conn, graph)
        self.graphs[made.id] = graph
        return made

    def take(self) -> list[ClaimedJob]:
        """Claim what is due, and write down with which inputs it runs."""
        jobs = sorted(claim(self.conn).values(), key=lambda job: job.id)
        found = db.run(self.conn, QUERIES.workflows.inputs(jobs)) if jobs else {}
        for job in jobs:
            given = json.loads(with_inputs(None, job.args, found.get(job.id, "[]")))
            self.conn.execute(DEED, (job.id, job.lease, "run", "n", json.dumps(given.get("got"))))
            if job.task == OVER:
                self.conn.execute(DEED, (job.id, job.lease, "over", given["op"], None))
        return jobs

    def run(self, dies: Mapping[int, int] = {}) -> None:
        """Run what is due until nothing is."""
        while jobs := self.take():
            end(self.conn, *((job, DEAD if dies.get(number(job)) else done(job)) for job in jobs))
            tidy(self.conn)
        tidy(self.conn)

    def at_once(self, one: Callable[[Conn], Any], other: Callable[[Conn], Any], holding: str = "") -> None:
        """Let two connections act at once: the first one holds what it has changed until the second one waits for it,
        or has acted. With `holding` both act, one after the other, while a third one holds those rows."""
        first, second, holder = self.open(), self.open(), self.open()
        if holding:
            holder.execute(holding)
            threads = []
            for conn, act in ((first, one), (second, other)):
                threads.append(InThread(partial(self.commit, conn, act)))
                self._until_it_waits(conn, threads[-1])
            holder.commit()
        else:
            one(first)
            threads = [InThread(partial(self.commit, second, other))]
            self._until_it_waits(second, threads[0])
            first.commit()
        for thread in threads:
            thread.result()
        for conn in (first, second, holder):
            conn.close()

    def after_its_snapshot(self, one: Callable[[Conn], Any], other: Callable[[Conn], Any]) -> None:
        """Let the second act and commit when a statement of the first one that deletes jobs has its snapshot, and
        before it locks any."""

        def held_up(conn: Conn) -> None:
            conn.execute(HELD_UP)
            one(conn)

        self.conn.execute(HOLD_UP)
        try:
            self.at_once(held_up, other, "select pg_advisory_xact_lock(4243)")
        finally:
            self.conn.execute("drop function stress.hold_up cascade")

    def _until_it_waits(self, conn: Conn, thread: InThread) -> None:
        pid = conn.info.backend_pid
        wait_for(lambda: thread.done or _value(self.conn, BLOCKED, pid), "the second to wait or to end")

    def commit(self, conn: Conn, act: Callable[[Conn], Any]) -> None:
        """Act and commit. A deadlock is noted: there must be none."""
        try:
            act(conn)
            conn.commit()
        except psycopg.errors.DeadlockDetected as error:
            self.seen.append(Violation("deadlock", str(error)))
            conn.rollback()


def nodes_of(count: int, dies: Mapping[int, int]) -> list[NewJob]:
    """Nodes of a graph. `dies`: until how often it was brought back each one dies."""
    args = [json.dumps({"op": "", "n": n, "payload": {"dies": dies.get(n, 0)}}) for n in range(count)]
    return [new_job("node", args=one, max_attempts=9) for one in args]


def number(job: ClaimedJob) -> int:
    """The number of a node."""
    return int(json.loads(job.args)["n"])


def done(job: ClaimedJob) -> Resolution:
    """Succeed with the number as the result."""
    return Resolution("succeed", result=str(number(job)))


def plainly(job: ClaimedJob) -> Resolution:
    """Succeed without a result."""
    return PLAIN_SUCCESS


def ending(*jobs: ClaimedJob, how: Callable[[ClaimedJob], Resolution] = done) -> Callable[[Conn], Any]:
    """Let jobs succeed, on whichever connection."""
    return lambda conn: end(conn, *((job, how(job)) for job in jobs))


def _value(conn: Conn, query: str, *params: Any) -> Any:
    row = conn.execute(query, params).fetchone()
    return None if row is None else row[0]
