"""Checks of workflows that grow (AD): each returns the violations that the rows prove."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime

from .growing_shop import GROWERS, OVER
from .violation import Violation
from .woven import KEY, TERMINAL, Row, Woven


def once(woven: Woven) -> Iterator[Violation]:
    """AD1: an added job is there once if what added it was committed, else not; it succeeds once, and only if it has
    run."""
    keys: dict[str, list[int]] = defaultdict(list)
    for row in woven.jobs:
        if row["task"] in GROWERS:
            keys[row["args"]["payload"]["key"]].append(row["id"])
    for key, jobs in keys.items():
        owner, _, name = key.rpartition(".")
        lives = 1 + _returns(woven, int(owner)) if name.startswith("r") and owner.isdecimal() else 1
        if len(jobs) > lives:
            yield Violation("AD1", f"{key} was added {len(jobs)} times: {jobs}")
        for job in jobs:
            done = sum(move["to_state"] == "succeeded" for move in woven.moves_of.get(job, []))
            ran = any(deed["kind"] == "run" for deed in woven.deeds_of.get(job, []))
            if done > 1 or done > ran:
                yield Violation(
                    "AD1", f"added job {job} ({key}) succeeded {done} times, and {'ran' if ran else 'never ran'}"
                )
    for deed in woven.deeds:
        if deed["kind"] == "added" and keys.get(deed["name"]) != [deed["value"]]:
            yield Violation("AD1", f"{deed['name']} was added as {deed['value']}, and is {keys.get(deed['name'])}")
    for name, outcome in woven.promised.items():
        if name.startswith(KEY) and outcome != "info" and (outcome == "ok") != (name in keys):
            yield Violation("AD1", f"job {name} is {'' if name in keys else 'not '}there, and was {outcome}")


def _returns(woven: Woven, job: int) -> int:
    """How often a job came back from its end."""
    moves = woven.moves_of.get(job, [])
    return sum(move["from_state"] in TERMINAL and move["to_state"] not in TERMINAL for move in moves)


def counted(woven: Woven) -> Iterator[Violation]:
    """AD2: what was added is counted by its gate and its workflow, which ends in the state that its members say."""
    members: Counter[int] = Counter(row["gate_id"] for row in woven.jobs if row["gate_id"] is not None)
    members.update(row["gate_id"] for row in woven.workflows if row["gate_id"] is not None)
    said: Counter[int] = Counter()
    root_of = {row["id"]: row["root_id"] for row in woven.workflows}
    for row in woven.workflows:
        said[row["root_id"]] += row["jobs"]
    for gate in woven.gates:
        if gate["members"] != members[gate["id"]]:
            yield Violation(
                "AD2", f"gate {gate['id']} counts {gate['members']} members, there are {members[gate['id']]}"
            )
        if not gate["counted"]:
            said[root_of[gate["workflow_id"]]] += gate["jobs"]
    for root, jobs in said.items():
        if jobs != len(woven.members.get(root, [])):
            yield Violation(
                "AD2", f"workflow {root} says that it has {jobs} jobs, it has {len(woven.members.get(root, []))}"
            )
    if woven.quiescent:
        yield from _states(woven)


def _states(woven: Woven) -> Iterator[Violation]:
    """Compare the state of each group with those of its members. A job that somebody cancelled alone may have been
    doomed by then, so it may count as skipped."""
    group_of = {gate["id"]: gate["workflow_id"] for gate in woven.gates}
    ends: dict[int, set[str]] = defaultdict(set)
    for row in woven.jobs:
        if row["gate_id"] is not None:
            skipped = row["state"] == "cancelled" and row.get("reason") == "skipped"
            discarded = row["state"] == "cancelled" and row.get("reason") == "discarded"
            ends[group_of[row["gate_id"]]].add("skipped" if skipped else "failed" if discarded else row["state"])
    for row in woven.workflows:
        if row["gate_id"] is not None:
            ends[group_of[row["gate_id"]]].add(row["state"])
    for row in woven.workflows:
        mine = ends[row["id"]]
        right = {"failed"} if "failed" in mine else {"cancelled", "succeeded"} if "cancelled" in mine else {"succeeded"}
        if row["state"] != "running" and row["state"] not in right:
            yield Violation("AD2", f"group {row['id']} has {row['state']}, its members have {sorted(mine)}")


def _members(woven: Woven, root: int) -> list[Row]:
    """The jobs of a workflow for which it waits: members of its groups, but for groups that have run in the place of a
    job which was cancelled meanwhile. Those are stopped, and nobody waits for them."""
    group_of = {gate["id"]: gate["workflow_id"] for gate in woven.gates}
    groups = {row["id"]: row for row in woven.workflows}

    def is_left(group: int | None) -> bool:
        if group is None:
            return False
        replaced = woven.job.get(groups[group]["replaces"])
        gate = groups[group]["gate_id"] if replaced is None else replaced["gate_id"]
        return (replaced is not None and replaced["state"] == "cancelled") or is_left(group_of.get(gate))

    mine = [job for job in woven.members.get(root, []) if job["gate_id"] is not None]
    return [job for job in mine if not is_left(group_of.get(job["gate_id"]))]


def waited_for(woven: Woven) -> Iterator[Violation]:
    """AD3: a workflow ends after its last member, and an open one after it was sealed: nothing of it begins later."""
    for row in woven.workflows:
        if row["root_id"] != row["id"] or row["ended_at"] is None:
            continue
        if not row["sealed"]:
            yield Violation("AD3", f"workflow {row['id']} has ended and is not sealed")
        for job in _members(woven, row["id"]):
            late = [move["at"] for move in _begun(woven, job) if move["at"] > row["ended_at"]]
            if late:
                yield Violation(
                    "AD3", f"job {job['id']} began at {late[0]}, workflow {row['id']} ended {row['ended_at']}"
                )


def _begun(woven: Woven, job: Row) -> list[Row]:
    return [move for move in woven.moves_of.get(job["id"], []) if move["to_state"] == "running"]


def called_back(woven: Woven) -> Iterator[Violation]:
    """AD4: a workflow calls back once, after it was sealed and all its members had ended."""
    for row in woven.workflows:
        mine = woven.members.get(row["id"], [])
        if row["root_id"] != row["id"] or any(_returns(woven, job["id"]) for job in mine):
            continue
        last = [end for job in _members(woven, row["id"]) if (end := _ended(woven, job)) is not None]
        for job in mine:
            if job["gate_id"] is not None or job["task"] != OVER:
                continue
            ready = sum(move["reason"] == "ready" for move in woven.moves_of.get(job["id"], []))
            begun = _begun(woven, job)
            if ready > 1:
                yield Violation("AD4", f"callback {job['id']} of {row['name']} was released {ready} times")
            if begun and last and begun[0]["at"] < max(last):
                told = f"began at {begun[0]['at']}, and a member ended at {max(last)}"
                yield Violation("AD4", f"callback {job['id']} of {row['name']} {told}")
    yield from _left_out(woven)


def _left_out(woven: Woven) -> Iterator[Violation]:
    """Of workflows with such callbacks one has run at their end, whatever it was."""
    ran = {deed["name"] for deed in woven.deeds if deed["kind"] == "over"}
    for row in woven.workflows if woven.quiescent else ():
        mine = [job for job in woven.members.get(row["id"], []) if job["task"] == OVER and job["gate_id"] is None]
        by_hand = any(job.get("reason") == "by hand" for job in mine)
        if row["root_id"] == row["id"] and mine and not by_hand and row["name"] not in ran:
            yield Violation("AD4", f"workflow {row['id']} ({row['name']}) has ended and called nobody back")


def _ended(woven: Woven, job: Row) -> datetime | None:
    ends: list[datetime] = [m["at"] for m in woven.moves_of.get(job["id"], []) if m["to_state"] in TERMINAL]
    return ends[-1] if ends else None


Check = Callable[[Woven], Iterator[Violation]]
CHECKS: tuple[Check, ...] = (once, counted, waited_for, called_back)
