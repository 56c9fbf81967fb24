"""Random graphs, random ends, and what must be true of them when nothing is left to do."""

import random
from collections import defaultdict
from typing import Any

from pgqueue import db
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.check import check
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, new_job
from tests.statements.graphs import DEAD, DONE, claim, end, tidy

RETRY, ASKED = Resolution("retry", "error"), Resolution("withdraw", "cancelled by request")
LEFT = """select exists (select from pgqueue.job_live where workflow_id = %s)
    or exists (select from pgqueue.dead_letter where workflow_id = %s and ties & 16 > 0)"""
STOPPED, SKIPPED = "a job failed", "skipped"


def random_graph(chance: random.Random, policies: tuple[str, ...] = ("cancel", "stop", "hold")) -> Graph:
    """A graph of up to forty jobs in up to four groups, with callbacks of groups and edges of each kind."""
    count = chance.randint(1, 40)
    groups = [Group("w", on_failure=chance.choice(policies))]
    groups += [
        Group(f"g{number}", chance.randrange(number), chance.choice(policies))
        for number in range(1, chance.randint(1, 4))
    ]
    group_of: list[int | None] = [chance.randrange(len(groups)) for _ in range(count)]
    members = {group: [n for n in range(count) if group_of[n] == group] for group in range(len(groups))}
    for group in range(1, len(groups)):
        group_of += [] if members[group] else [group]
    if 0 not in group_of:
        group_of.append(0)
    edges = [
        Edge(parent, child, chance.choice("sssssef"))
        for child in range(1, len(group_of))
        for parent in chance.sample(range(child), min(child, chance.choice([0, 0, 1, 1, 2, 5])))
    ]
    for group in range(len(groups)):  # a callback of it: a member of the group around it
        for when in chance.sample("sef", chance.randint(0, 3)):
            group_of.append(groups[group].parent)
            edges.append(Edge(-1 - group, len(group_of) - 1, when))
    jobs = [new_job(args=f'{{"n": {n}}}', max_attempts=3) for n in range(len(group_of))]
    return check(Graph(jobs, group_of, edges, groups))


def scalar_or_none(conn: Conn, query: str, *params: Any) -> Any:
    row = conn.execute(query, params).fetchone()
    return None if row is None else row[0]


class Actor:
    """Somebody who takes jobs, ends them in any way, cancels others, and tidies up."""

    def __init__(self, conn: Conn, made: InsertedWorkflow, chance: random.Random, worker: Any) -> None:
        self._conn, self._made, self._chance, self._worker = conn, made, chance, worker

    def act(self) -> bool:
        """Do something; returns whether anything was left to do."""
        chance, conn = self._chance, self._conn
        if chance.random() < 0.1:
            self._cancel_one()
        if chance.random() < 0.05:
            self._expire_one()
        taken = list(claim(conn, chance.randint(1, 8), self._worker).values())
        while taken:
            some = [taken.pop() for _ in range(chance.randint(1, len(taken)))]
            end(conn, *((job, self._end_of(job)) for job in some))
        if chance.random() < 0.2:
            tidy(conn)
        return bool(scalar(conn, LEFT, self._made.id, self._made.id))

    def _end_of(self, job: ClaimedJob) -> Resolution:
        kind = self._chance.choices([DONE, DEAD, RETRY, ASKED], [80, 8, 8, 4])[0]
        return DEAD if kind is RETRY and job.is_last_attempt else kind

    def _waiting_one(self) -> int | None:
        """Lock a job that waits and is not doomed, for that is skipped; None if there is none, or others have it."""
        query = (
            "select id from pgqueue.job_live where workflow_id = %s and state <> 'running' and attempt = 0"
            " and cancel_requested_at is null order by id"
        )
        waiting = [row[0] for row in self._conn.execute(query, (self._made.id,)).fetchall()]
        if not waiting:
            return None
        lock = query.replace("order by id", "and id = %s for update skip locked")
        return scalar_or_none(self._conn, lock, self._made.id, self._chance.choice(waiting))

    def _cancel_one(self) -> None:
        with self._conn.transaction():
            job = self._waiting_one()
            if job is not None:
                db.run(self._conn, QUERIES.jobs.cancel([job], "by hand"))

    def _expire_one(self) -> None:
        with self._conn.transaction():
            job = self._waiting_one()
            if job is not None:
                self._conn.execute(
                    "update pgqueue.job_live set expires_at = now() - interval '1 s' where id = %s", (job,)
                )
                db.run(self._conn, QUERIES.jobs.expire(10))

    def release_held(self) -> None:
        """Redrive or discard the dead letters for which a workflow waits."""
        query = "select id from pgqueue.dead_letter where workflow_id = %s and ties & 16 > 0"
        for (job,) in self._conn.execute(query, (self._made.id,)).fetchall():
            if self._chance.random() < 0.5:
                db.run(self._conn, QUERIES.dead.redrive(0, [job], "redriven", {}))
            else:
                db.run(self._conn, QUERIES.dead.discard([job], "discarded"))


def play(actor: Actor, conn: Conn, most: int = 300) -> None:
    """Act until nothing is left to do."""
    for turn in range(most):
        if not actor.act():
            tidy(conn)
            return
        if turn % 4 == 3:
            tidy(conn)
            actor.release_held()
    raise AssertionError("the workflow does not end")


def violations(conn: Conn, graph: Graph, made: InsertedWorkflow) -> list[str]:
    """Return what is not as it must be of a workflow that has ended, and was not retried."""
    found = _unfinished(conn, made)
    rows = conn.execute("select id, state, reason from pgqueue.job where id = any(%s)", (made.jobs,)).fetchall()
    number = {job: n for n, job in enumerate(made.jobs)}
    ended = {number[job]: (state, reason or "") for job, state, reason in rows}
    if len(rows) != len(made.jobs):
        return [*found, f"{len(rows)} of {len(made.jobs)} jobs are there"]
    groups = dict(conn.execute("select id, state from pgqueue.workflow where root_id = %s", (made.id,)).fetchall())
    began, released = _log(conn, made)
    edges = defaultdict(list)
    for edge in graph.edges:
        edges[edge.child].append(edge)
    for n, (state, reason) in ended.items():
        met = [
            _met(e, groups[made.groups[-1 - e.parent]] if e.parent < 0 else _seen(*ended[e.parent])) for e in edges[n]
        ]
        ran, by_hand = made.jobs[n] in began, reason in ("by hand", "expired", STOPPED)
        if ran and not all(met):
            found.append(f"job {n} ran though an edge of it is not met")
        if not ran and all(met) and not by_hand:
            found.append(f"job {n} did not run ({state}, {reason}) though all its edges are met")
        if state == "cancelled" and reason == SKIPPED and all(met):
            found.append(f"job {n} was skipped though all its edges are met")
        if released[made.jobs[n]] > 1 or (edges[n] and ran and released[made.jobs[n]] != 1):
            found.append(f"job {n} was released {released[made.jobs[n]]} times")
    return found + _wrong_groups(graph, made, ended, groups)


def _unfinished(conn: Conn, made: InsertedWorkflow) -> list[str]:
    checks = {
        "jobs live": "select count(*) from pgqueue.job_live where workflow_id = %s",
        "gates are open": "select count(*) from pgqueue.gate g join pgqueue.workflow w on w.id = g.workflow_id"
        " where w.root_id = %s and g.remaining <> 0",
        "groups are not settled": "select count(*) from pgqueue.workflow where root_id = %s"
        " and (state = 'running' or not settled or open_gates <> 0)",
    }
    counts = {what: scalar(conn, query, made.id) for what, query in checks.items()}
    return [f"{count} {what}" for what, count in counts.items() if count]


def _log(conn: Conn, made: InsertedWorkflow) -> tuple[set[int], dict[int, int]]:
    rows = conn.execute(
        "select job_id, to_state, reason from pgqueue.transition where job_id = any(%s)", (made.jobs,)
    ).fetchall()
    released: dict[int, int] = defaultdict(int)
    for job, _, reason in rows:
        released[job] += reason == "ready"
    return {job for job, state, _ in rows if state == "running"}, released


def _seen(state: str, reason: str) -> str:
    """How the end of a job looks to its children: a dead letter that was discarded has failed."""
    return "failed" if reason == "discarded" else state


def _met(edge: Edge, state: str) -> bool:
    return edge.when == "e" or state == {"s": "succeeded", "f": "failed"}[edge.when]


def _wrong_groups(
    graph: Graph, made: InsertedWorkflow, ended: dict[int, tuple[str, str]], groups: dict[int, str]
) -> list[str]:
    found = []
    for group in range(len(graph.groups)):
        members = [_seen(*ended[n]) for n, of in enumerate(graph.group_of) if of == group and ended[n][1] != SKIPPED]
        members += [groups[made.groups[n]] for n, each in enumerate(graph.groups) if each.parent == group]
        expected = "failed" if "failed" in members else "cancelled" if "cancelled" in members else "succeeded"
        if groups[made.groups[group]] != expected:
            found.append(f"group {group} is {groups[made.groups[group]]} and not {expected}")
    return found
