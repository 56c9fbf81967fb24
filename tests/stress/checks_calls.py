"""Checks of calls of steps (CA): each returns the violations that the rows prove."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from .checks_steps import Check, Record, Steps
from .violation import Violation
from .woven import TERMINAL, Woven
from .woven_shop import CALLS, PlannedCall, calls_of


def planned(woven: Woven, job: int, step: str) -> tuple[str, list[PlannedCall]]:
    """Draw what a step of a saga calls; also return for what it runs."""
    args = woven.job[job]["args"]
    return args["op"], calls_of(args["op"], step, args["payload"].get("depth", 0))


def inserted(steps: Steps) -> Iterator[Violation]:
    """CA1: each call is inserted once for each record of its step, however often its caller is replayed; and not
    without one."""
    there = Counter(
        (payload["by"], payload["step"], row["args"]["n"])
        for row in steps.woven.jobs
        if "by" in (payload := row["args"].get("payload") or {})
    )
    wanted: Counter[tuple[int, str, int]] = Counter()
    for job, name, _ in steps.of(("call",)):
        for call in planned(steps.woven, job, name)[1]:
            wanted.update((job, name, n) for n in call.numbers)
    for job, name, n in (there - wanted).keys() | (wanted - there).keys():
        counts = f"{there[job, name, n]} times, and is recorded {wanted[job, name, n]} times"
        yield Violation("CA1", f"call {n} of step {name} of job {job} was inserted {counts}")


def answered(steps: Steps) -> Iterator[Violation]:
    """CA2: a call is answered once, as the called job has ended; and each attempt sees that answer."""
    for job, name, record in steps.of(("call",)):
        if record.over is None or record.over_at is None:
            continue
        for item in record.over["value"]["items"]:
            ends = _ends(steps.woven, item["id"], record.over_at)
            if item["state"] not in ends:
                told = (
                    f"says that job {item['id']} has {item['state']}, which by then had {sorted(ends) or 'not ended'}"
                )
                yield Violation("CA2", f"step {name} of job {job} {told}")
    for job, deeds in steps.woven.deeds_of.items():
        for deed in deeds:
            if deed["kind"] == "saw" and deed["name"].startswith(CALLS):
                records = steps.records.get((job, deed["name"]), [])
                if deed["value"] not in list(_answers(steps.woven, job, deed["name"], deed["at"], records)):
                    told = f"{json.dumps(deed['value']):.200}, which is none of its answers"
                    yield Violation("CA2", f"job {job} saw of {deed['name']} {told}")


def _ends(woven: Woven, job: int, before: datetime) -> set[str]:
    """In which states a job had ended before a time."""
    moves = woven.moves_of.get(job, [])
    return {move["to_state"] for move in moves if move["to_state"] in TERMINAL and move["at"] < before}


def _answers(woven: Woven, job: int, name: str, at: datetime, records: list[Record]) -> Iterator[Any]:
    """What a task may see of a step at a time."""
    op, calls = planned(woven, job, name)
    many = name.startswith("gather")
    values = [call.value(op) for call in calls]
    if not calls:
        yield []
    for record in records:
        if record.over is not None and record.over_at is not None and record.over_at < at:
            failed = [item["state"] for item in record.over["value"]["items"] if item["state"] != "succeeded"]
            yield {"failed": failed[0]} if failed else values if many else values[0]


def told(steps: Steps) -> Iterator[Violation]:
    """CA3: a caller never waits for a call that has ended: its end is marked in the statement that makes it, and what
    is marked is delivered."""
    for row in steps.woven.wrong_calls:
        called = "" if row["child"] is None else f" job {row['child']}, and"
        yield Violation("CA3", f"job {row['caller']}{' called' if called else ''}{called} {row['what']}")


CHECKS: tuple[Check, ...] = (inserted, answered, told)
