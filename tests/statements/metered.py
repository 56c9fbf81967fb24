"""Samples of the statements of flow control: enqueueing metered jobs, rules and their exceptions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pgqueue.jobs.flow import Flow, headers_of_each
from pgqueue.jobs.job import NewJob
from pgqueue.jobs.keys import Unique, key_hashes
from pgqueue.jobs.limit_rule import LimitRule
from pgqueue.jobs.limits import Breaker, Limit
from pgqueue.queries import Queries, Query
from pgqueue.tasks.rules import Rules

FLOW = Flow(("stripe", "t/acme"))
ORDERED = Flow(("t#order/7",), "t#order/7")
METERED = NewJob("t", "{}", "q", 0, 3, flow=FLOW)
KEYED = replace(METERED, conditions=Rules(key="m", expires=60.0).conditions("t", dict, {}, None))
UNIQUE = replace(METERED, conditions=Rules(unique_key="m").conditions("t", dict, {}, None))
ALONE = replace(METERED, conditions=Rules(unique=Unique(window=60)).conditions("t", dict, {"m": 1}, None))
RULES = [LimitRule.of_limit("t", Limit(5, by="n", rate="10/m", breaker=Breaker(3))), LimitRule.of_share("u", "n")]
TARGET = {"task": "u", "queue": "default", "flow": FLOW.header()}

SAMPLES: dict[str, Callable[[Queries], Query[Any]]] = {
    "jobs.enqueue_one metered": lambda q: q.jobs.enqueue_one(METERED),
    "jobs.enqueue_many metered": lambda q: q.jobs.enqueue_many(METERED, '[{"a": 1}, {}]'),
    "jobs.enqueue_many_metered": lambda q: q.jobs.enqueue_many_metered(METERED, '[{"a": 1}, {}]', [FLOW, ORDERED]),
    "jobs.enqueue_many_keyed metered": lambda q: q.jobs.enqueue_many_keyed(
        KEYED, '[{"a": 1}, {}]', [*key_hashes("t", ["m"]), None], headers_of_each(None, [FLOW, ORDERED]), metered=True
    ),
    "jobs.enqueue metered": lambda q: q.jobs.enqueue([METERED, replace(METERED, flow=None)]),
    "jobs.enqueue_one_keyed metered": lambda q: q.jobs.enqueue_one_keyed(KEYED),
    "limits.declare": lambda q: q.limits.declare("shop:app", RULES),
    "limits.list": lambda q: q.limits.list("t"),
    "limits.names": lambda q: q.limits.names(),
    "limits.set_rule": lambda q: q.limits.set_rule("t", {"max_running": 3, "rate_count": 5, "rate_seconds": 1.5}, "me"),
    "limits.set_key": lambda q: q.limits.set_key("t", "acme", {"weight": 3.0}, "me"),
    "limits.reset_rule": lambda q: q.limits.reset_rule("t"),
    "limits.reset_key": lambda q: q.limits.reset_key("t", "acme", "me"),
    "jobs.change_flows": lambda q: q.jobs.change_flows({1: FLOW, 2: None}),
    "jobs.enqueue_conditionally metered unique": lambda q: q.jobs.enqueue_conditionally([UNIQUE]),
    "jobs.enqueue_conditionally metered in window": lambda q: q.jobs.enqueue_conditionally([KEYED, ALONE]),
}
