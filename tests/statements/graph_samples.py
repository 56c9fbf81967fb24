"""Samples of the statements of workflows."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pgqueue.jobs.flow import Flow
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.queries import Queries, Query
from pgqueue.queries.workflows.adding import LockedGroup
from pgqueue.queries.workflows.gone import CallPlace, Place
from pgqueue.queries.workflows.retry import LockedWorkflow
from pgqueue.workflows.graph import OUTSIDE, Edge, Graph, Group
from tests.harness import WORKER, claimed, new_job

TICK = datetime(2026, 1, 1, tzinfo=UTC)
GRAPH = Graph(
    [new_job(tags=("a", 'b"')), new_job(delay=1.0), new_job(flow=Flow(("stripe", "t/acme"))), new_job(), new_job()],
    [1, 1, 0, 0, None],
    [Edge(-2, 2, argument="items"), Edge(0, 3, "e", "x", 0), Edge(1, 3, "f"), Edge(-1, 4, "e")],
    [Group("w", on_failure="stop"), Group("header", 0)],
)
STAND_IN = Graph([new_job(), new_job()], [0, 0], [Edge(0, 1)], [Group("w")], [1])
INTO = LockedGroup(1, 1, "running", True, 0, [1])
ADDED = Graph(
    [new_job(), new_job()], [0, 1], [Edge(OUTSIDE, 0), Edge(OUTSIDE - 1, 1, "e", "x"), Edge(0, 1)],
    [Group("w"), Group("within", 0)], outside=[3, 1],
)  # fmt: skip
OUTCOMES = [
    (claimed(3, 1, ties=3), Resolution("succeed", result="[1]")),
    (claimed(4, 1, ties=1), Resolution("dead_letter", "error")),
]
LOCKED = LockedWorkflow(1, 1, "failed", True, 5, TICK)
METERED_OUTCOMES = [
    (claimed(3, 1, lane=5, ties=3), Resolution("succeed", result="[1]")),
    (claimed(4, 1, lane=5, ties=1), Resolution("snooze", "rate limited", 1.0, refund=True, closes=("r/a",))),
]

SAMPLES: dict[str, Callable[[Queries], Query[Any]]] = {
    "jobs.resolve_tied": lambda q: q.jobs.resolve_tied(OUTCOMES),
    "jobs.resolve_tied metered": lambda q: q.jobs.resolve_tied(METERED_OUTCOMES),
    "jobs.succeed_counted": lambda q: q.jobs.succeed_counted(
        [(claimed(job, 1, ties=2), PLAIN_SUCCESS) for job in (3, 4)]
    ),
    "jobs.succeed_counted one": lambda q: q.jobs.succeed_counted([(claimed(3, 1, ties=2), PLAIN_SUCCESS)]),
    "jobs.lock_unlocked_ties": lambda q: q.jobs.lock_unlocked_ties([3, 4]),
    "workflows.lock_for_retry": lambda q: q.workflows.lock_for_retry(1),
    "workflows.lock_free_for_retry": lambda q: q.workflows.lock_free_for_retry(1),
    "workflows.lock_letters": lambda q: q.workflows.lock_letters(LOCKED),
    "workflows.counted": lambda q: q.workflows.counted([1, 2]),
    "workflows.elsewhere": lambda q: q.workflows.elsewhere(1, {"email", "letters"}),
    "workflows.comes_back": lambda q: q.workflows.comes_back([1, 2], {"email"}),
    "workflows.comes_back anywhere": lambda q: q.workflows.comes_back([1, 2], None),
    "workflows.revive": lambda q: q.workflows.revive(LOCKED, "retried"),
    "workflows.request_stop": lambda q: q.workflows.request_stop(1, "not wanted"),
    "workflows.get": lambda q: q.workflows.get(1),
    "workflows.list": lambda q: q.workflows.list("running", 7, 10, "im*"),
    "workflows.state": lambda q: q.workflows.state(1),
    "workflows.of_job": lambda q: q.workflows.of_job(3),
    "workflows.jobs": lambda q: q.workflows.jobs(1, 10),
    "workflows.errors": lambda q: q.workflows.errors(1, 10),
    "workflows.edges": lambda q: q.workflows.edges(1, 10),
    "workflows.groups": lambda q: q.workflows.groups(1, 10),
    "workflows.prune": lambda q: q.workflows.prune(10),
    "workflows.results_page": lambda q: q.workflows.results_page(3, "a", 0),
    "workflows.results_members": lambda q: q.workflows.results_members(3, "a"),
    "workflows.inputs": lambda q: q.workflows.inputs([claimed(3, 1), claimed(4, 1)]),
    "why.parents": lambda q: q.why.parents(3),
    "why.skipped_for": lambda q: q.why.skipped_for(3, 1),
    "workflows.find_older": lambda q: q.workflows.find_older(),
    "workflows.look": lambda q: q.workflows.look(),
    "workflows.enqueue": lambda q: q.workflows.enqueue(GRAPH),
    "workflows.enter": lambda q: q.workflows.enter(claimed(3, 1)),
    "workflows.look_at_group": lambda q: q.workflows.look_at_group(1),
    "workflows.lock_group": lambda q: q.workflows.lock_group(1),
    "workflows.share_open": lambda q: q.workflows.share_open(1),
    "workflows.check_parents": lambda q: q.workflows.check_parents(INTO, [3, 4]),
    "workflows.add": lambda q: q.workflows.add(INTO, ADDED),
    "workflows.add_many": lambda q: q.workflows.add_many(INTO, new_job(), 2, "[{}, {}]"),
    "workflows.tell_late": lambda q: q.workflows.tell_late(500),
    "workflows.tell_late of some": lambda q: q.workflows.tell_late(500, [3, 4]),
    "workflows.mark_late": lambda q: q.workflows.mark_late(500),
    "workflows.mark_late_of": lambda q: q.workflows.mark_late_of([3, 4]),
    "workflows.close_open": lambda q: q.workflows.close_open(1),
    "workflows.seal": lambda q: q.workflows.seal(1),
    "workflows.enter_replaced": lambda q: q.workflows.enter_replaced(claimed(3, 1)),
    "workflows.replace": lambda q: q.workflows.replace(3, 1, STAND_IN),
    "workflows.cascade": lambda q: q.workflows.cascade(500),
    "workflows.stop": lambda q: q.workflows.stop(500),
    "workflows.settle": lambda q: q.workflows.settle(100),
    "workflows.doom_stuck": lambda q: q.workflows.doom_stuck(WORKER, 1000, Place(5, 7)),
    "workflows.find_stuck": lambda q: q.workflows.find_stuck(1000),
    "workflows.end_hollow": lambda q: q.workflows.end_hollow(WORKER, 1000, None),
    "workflows.tell_gone": lambda q: q.workflows.tell_gone(WORKER, 1000, CallPlace(5, 7)),
    "workflows.find_hollow": lambda q: q.workflows.find_hollow(1000),
}
