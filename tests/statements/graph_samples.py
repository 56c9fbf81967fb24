"""Samples of the statements of workflows."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pgqueue.jobs.flow import Flow
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.queries import Queries, Query
from pgqueue.queries.workflows.gone import Place
from pgqueue.queries.workflows.retry import LockedWorkflow
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.harness import WORKER, claimed, new_job

TICK = datetime(2026, 1, 1, tzinfo=UTC)
GRAPH = Graph(
    [new_job(tags=("a", 'b"')), new_job(delay=1.0), new_job(flow=Flow(("stripe", "t/acme"))), new_job(), new_job()],
    [1, 1, 0, 0, None],
    [Edge(-2, 2, argument="items"), Edge(0, 3, "e", "x", 0), Edge(1, 3, "f"), Edge(-1, 4, "e")],
    [Group("w", on_failure="stop"), Group("header", 0)],
)
OUTCOMES = [
    (claimed(3, 1, ties=3), Resolution("succeed", result="[1]")),
    (claimed(4, 1, ties=1), Resolution("dead_letter", "error")),
]
METERED_OUTCOMES = [
    (claimed(3, 1, lane=5, ties=3), Resolution("succeed", result="[1]")),
    (claimed(4, 1, lane=5, ties=1), Resolution("snooze", "rate limited", 1.0, refund=True, closes=("r/a",))),
]

SAMPLES: dict[str, Callable[[Queries], Query[Any]]] = {
    "jobs.resolve_tied": lambda q: q.jobs.resolve_tied(OUTCOMES),
    "jobs.resolve_tied metered": lambda q: q.jobs.resolve_tied(METERED_OUTCOMES),
    "jobs.lock_unlocked_ties": lambda q: q.jobs.lock_unlocked_ties([3, 4]),
    "workflows.lock_for_retry": lambda q: q.workflows.lock_for_retry(1),
    "workflows.lock_free_for_retry": lambda q: q.workflows.lock_free_for_retry(1),
    "workflows.counted": lambda q: q.workflows.counted([1, 2]),
    "workflows.revive": lambda q: q.workflows.revive(LockedWorkflow(1, 1, "failed", True, 5, TICK), "retried"),
    "workflows.request_stop": lambda q: q.workflows.request_stop(1, "not wanted"),
    "workflows.get": lambda q: q.workflows.get(1),
    "workflows.list": lambda q: q.workflows.list("running", 7, 10, "im*"),
    "workflows.state": lambda q: q.workflows.state(1),
    "workflows.jobs": lambda q: q.workflows.jobs(1, 10),
    "workflows.edges": lambda q: q.workflows.edges(1, 10),
    "workflows.groups": lambda q: q.workflows.groups(1, 10),
    "workflows.prune": lambda q: q.workflows.prune(10),
    "workflows.inputs": lambda q: q.workflows.inputs([claimed(3, 1), claimed(4, 1)]),
    "why.parents": lambda q: q.why.parents(3),
    "workflows.find_older": lambda q: q.workflows.find_older(),
    "workflows.look": lambda q: q.workflows.look(),
    "workflows.enqueue": lambda q: q.workflows.enqueue(GRAPH),
    "workflows.cascade": lambda q: q.workflows.cascade(500),
    "workflows.stop": lambda q: q.workflows.stop(500),
    "workflows.settle": lambda q: q.workflows.settle(100),
    "workflows.doom_stuck": lambda q: q.workflows.doom_stuck(WORKER, 1000, Place(5, 7)),
    "workflows.find_stuck": lambda q: q.workflows.find_stuck(1000),
    "workflows.end_hollow": lambda q: q.workflows.end_hollow(WORKER, 1000, None),
    "workflows.find_hollow": lambda q: q.workflows.find_hollow(1000),
}
