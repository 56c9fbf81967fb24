"""Subscriptions of tasks: all that the statement of a publisher, who has no code of the task, needs for its jobs."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pgqueue.errors import InvalidOption
from pgqueue.jobs.job import NewJob
from pgqueue.jobs.topics import Pattern
from pgqueue.tasks.metering import EVENT_KEY
from pgqueue.tasks.registry import Tasks
from pgqueue.tasks.spec import TaskSpec
from pgqueue.tasks.versions import with_own


class Declared(NamedTuple):
    """The subscription of a task as its code declares it. `row` is a JSON object with its columns."""

    task: str
    aliases: tuple[str, ...]
    row: str


def subscriptions_of(tasks: Tasks, queue: str, kept: Mapping[str, int | None]) -> list[Declared]:
    """Return the subscriptions of an app's tasks.

    `queue`: that of tasks without one. `kept`: the queues of whose jobs nothing is kept when they succeed.
    """
    return [_declared(spec, tasks, queue, kept) for spec in tasks if spec.on]


def renames(declared: Iterable[Declared]) -> str | None:
    """Return the names that tasks had, with those that they have, as JSON; None without any."""
    found = [{"task": one.task, "alias": alias} for one in declared for alias in one.aliases]
    return json.dumps(found) if found else None


def check_subscription(spec: TaskSpec) -> None:
    """Refuse rules of a task that gets events, if a publisher cannot make their keys. Raises InvalidOption."""
    if spec.on:
        _rules(spec, None)


def _declared(spec: TaskSpec, tasks: Tasks, queue: str, kept: Mapping[str, int | None]) -> Declared:
    ttl = None if spec.rules is None else spec.rules.expires
    whole_as = spec.event_parameter
    row: dict[str, Any] = {
        "task": spec.name,
        "patterns": [pattern.text for pattern in spec.on],
        "expressions": [pattern.expression for pattern in spec.on],
        "queue": spec.queue,
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "tags": list(spec.tags),
        "headers": _own_headers(spec, tasks, queue),
        "history": kept.get(spec.queue) is None and spec.retention is None,
        "ttl": ttl,
        "takes": [name for name in spec.coder.signature.parameters if name != whole_as],
        "whole_as": whole_as,
        "rules": _rules(spec, tasks.queue_rules.get(spec.queue)),
        "matching": [_matching(pattern) for pattern in spec.on],
    }
    return Declared(spec.name, tuple(spec.aliases), json.dumps(row))


def _own_headers(spec: TaskSpec, tasks: Tasks, queue: str) -> dict[str, Any]:
    """Return the headers that each job of a task has: version, limit of crashes, dead-letter task."""
    job = NewJob(
        spec.name, "{}", spec.queue, spec.priority, spec.max_attempts, version=spec.version,
        max_crashes=spec.max_crashes, dead_letter_task=tasks.dead_letter_target(spec, queue),
    )  # fmt: skip
    headers: dict[str, Any] = json.loads(with_own(None, job) or "{}")
    return headers


def _matching(pattern: Pattern) -> dict[str, str | None]:
    return {
        "anchor": pattern.anchor,
        "pattern": pattern.text,
        "expression": None if pattern.is_topic else pattern.expression,
    }


def _rules(spec: TaskSpec, queue_rule: str | None) -> list[dict[str, str | None]] | None:
    """Return the rules that concern the jobs, each with the source of its key: a field of the data, or the event's
    key, which is `$key`. None without any."""
    rules = [] if queue_rule is None else [{"kind": "limit", "rule": queue_rule, "key_of": None}]
    if spec.metering is not None:
        rules += _metering(spec)
    return rules or None


def _metering(spec: TaskSpec) -> Iterator[dict[str, str | None]]:
    metering = spec.metering
    assert metering is not None  # noqa: S101  # for the type checker
    for kind, rule in (
        *(("limit", limit) for limit in metering.limits),
        ("order" if metering.keeps_place else "limit", metering.order),
        ("fair", metering.share),
    ):
        if rule is None:
            continue
        if callable(rule.by):
            raise InvalidOption(
                f"task {spec.name}: the key of its rule {rule.rule.name} is made by a function, and a publisher "
                "does not have it: name a parameter, or 'event.key' for a parameter event: pgqueue.Event"
            )
        key_of = "$key" if rule.by is not None and rule.by.endswith(EVENT_KEY) else rule.by
        if key_of is not None and key_of == spec.event_parameter:
            raise InvalidOption(
                f"task {spec.name}: the event is no key of its rule {rule.rule.name}: say '{key_of}.key' for its key"
            )
        yield {"kind": "share" if kind == "fair" else kind, "rule": rule.rule.name, "key_of": key_of}
