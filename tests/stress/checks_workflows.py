"""Checks of workflows (WF): each returns the violations that the rows prove. The numbers are those of the project's
list; what must become of each job is compared with the oracle."""

import json
from collections import Counter
from collections.abc import Callable, Iterator

from .oracle import CANCELLED, FAILED, SKIPPED
from .replay import Replay
from .violation import Violation
from .woven import KEY, TERMINAL, Row, Woven, number_of

STOPPED = "a job failed"


def played(woven: Woven) -> Iterator[Violation]:
    """WF1, WF4, WF5, WF7 and WF9, workflow by workflow, as far as its graph is there whole (WF6)."""
    for root, graph in woven.graphs.items():
        replay = Replay(woven, root, graph)
        if 0 in replay.ids:
            continue
        yield from replay.play()
        yield from inputs(replay)
        yield from successes(replay)
        if woven.quiescent:
            yield from ends(replay)
            yield from callbacks(replay)


def inputs(replay: Replay) -> Iterator[Violation]:
    """WF7: a job gets the results of its parents, in order."""
    for job in replay.ids:
        for deed in replay.woven.deeds_of.get(job, []):
            wanted = replay.inputs.get((job, deed["lease"]))
            if deed["kind"] == "run" and wanted is not None:
                known = replay.woven.job[job]["args"].get("got")  # such as the list of a group of none
                got, right = _without_errors(deed["value"]), wanted.get("got", known)
                if got != right:
                    told = f"{json.dumps(got):.300} and not {json.dumps(right):.300}"
                    yield Violation("WF7", f"job {job} got {told}")


def _without_errors(value: object) -> object:
    if isinstance(value, list):
        return [_without_errors(each) for each in value]
    return {k: v for k, v in value.items() if k != "error"} if isinstance(value, dict) else value


def successes(replay: Replay) -> Iterator[Violation]:
    """WF8, WF9: whatever dies, a job succeeds once, not without having run, and an effect of ctx.transaction() is
    there as often as its job has succeeded."""
    for job in replay.ids:
        count = sum(move["to_state"] == "succeeded" for move in replay.woven.moves_of.get(job, []))
        kinds = Counter(deed["kind"] for deed in replay.woven.deeds_of.get(job, []))
        if count > 1:
            yield Violation("WF9", f"job {job} succeeded {count} times")
        task = replay.woven.job[job]["task"]
        if count and task in ("node", "node_async", "node_exact", "node_metered", "callback") and not kinds["run"]:
            yield Violation("WF8", f"job {job} succeeded and never ran")
        if kinds["exact"] != (count if task == "node_exact" else 0):
            yield Violation("WF8", f"job {job} ({task}) succeeded {count} times, its effect is there {kinds['exact']}")


def ends(replay: Replay) -> Iterator[Violation]:
    """WF5: what ran, was skipped, or failed is what the oracle foresees from what happened to single jobs."""
    rows = [replay.woven.job[job] for job in replay.ids]
    if any(row["state"] not in TERMINAL for row in rows):
        return  # WF2
    nodes = range(len(rows))
    before = replay.revived_at
    settled = {node for node, at in replay.succeeded_at.items() if before is not None and at < before}
    by_hand = {node for node in nodes if replay.ended.get(node) == CANCELLED}
    dies = {node for node in nodes if _dies(replay, rows[node]) or rows[node].get("reason") == "discarded"}
    foreseen = replay.oracle.foresee(dies, by_hand, settled)
    for node in nodes:
        now, wanted = replay.ended.get(node), foreseen.states[node]
        if now != wanted:
            how = "ran though an edge of it is not met" if wanted == SKIPPED else f"must be {wanted}"
            yield Violation("WF5", f"job {replay.ids[node]} is {now} ({rows[node].get('reason')}): it {how}")
        if node in by_hand and rows[node]["reason"] == STOPPED and not _may_stop(replay, node, foreseen.states):
            yield Violation("WF5", f"job {replay.ids[node]} was stopped, and none of its group has failed")
    stands = {row["id"]: row["state"] for row in replay.woven.workflows if row["root_id"] == replay.root}
    if Counter(stands.values()) != Counter(foreseen.groups):
        yield Violation("WF5", f"the groups of workflow {replay.root} are {stands}: they must be {foreseen.groups}")


def _dies(replay: Replay, row: Row) -> bool:
    """Whether a job dies when it runs: it does until it was brought back often enough."""
    back = sum(move["from_state"] == "failed" for move in replay.woven.moves_of.get(row["id"], []))
    return bool(row["args"].get("payload", {}).get("dies", 0) > back)


def _may_stop(replay: Replay, stopped: int, states: list[str]) -> bool:
    """Whether a job may have been stopped: a group that it is in, or one around it, stops at a failure and has one."""
    group = replay.graph.group_of[stopped]
    while group is not None:
        within = {states[node] for node in replay.oracle.nodes_in(-1 - group)}
        if replay.graph.groups[group].on_failure == "stop" and FAILED in within:
            return True
        group = replay.graph.groups[group].parent
    return False


def callbacks(replay: Replay) -> Iterator[Violation]:
    """WF4: a callback on any end has run, and of those on success and on failure one has, but for a retry."""
    kinds: dict[tuple[int, str], int] = {}
    for node, group in enumerate(replay.graph.group_of):
        edges = replay.oracle.edges[node]
        if group is not None or len(edges) != 1:
            continue
        job, (edge,) = replay.ids[node], edges
        if edge.when == "e" and not replay.began.get(node) and replay.ended.get(node) in (None, SKIPPED):
            yield Violation("WF4", f"job {job} runs at any end of {replay.tell(edge)}, and did not")
        if replay.began.get(node):
            kinds[edge.parent, edge.when] = job
    for parent in {parent for parent, _ in kinds}:
        if {(parent, "s"), (parent, "f")} <= kinds.keys() and replay.revived_at is None:
            both = kinds[parent, "s"], kinds[parent, "f"]
            yield Violation("WF4", f"callbacks {both} on success and on failure of one part have both run")


def left_over(woven: Woven) -> Iterator[Violation]:
    """WF2: when nothing is left to do, nothing waits, no gate is open, and every workflow is settled."""
    places = Counter(row["id"] for row in woven.jobs)
    for job, count in places.items():
        if count > 1:
            yield Violation("WF2", f"job {job} is in {count} tables")
    if not woven.quiescent:
        return
    for row in woven.jobs:
        if row["workflow_id"] is not None and row["state"] not in TERMINAL:
            yield Violation("WF2", f"job {row['id']} of workflow {row['workflow_id']} is {row['state']} at the end")
    for row in woven.workflows:
        if row["state"] == "running" or not row["settled"] or row["open_gates"]:
            told = f"{row['state']}, settled {row['settled']}, {row['open_gates']} gates are open"
            yield Violation("WF2", f"workflow {row['id']} ({row['name']}) is {told}")
    for row in woven.gates:
        if row["remaining"]:
            yield Violation("WF2", f"gate {row['id']} of {row['workflow_id']} still counts {row['remaining']} members")


def counters(woven: Woven) -> Iterator[Violation]:
    """WF3: in each snapshot a job waits for as many edges as are still to be met."""
    for job, waits_on, still in woven.counters:
        yield Violation("WF3", f"job {job} waited for {waits_on} edges, and {still} were to be met")


def whole(woven: Woven) -> Iterator[Violation]:
    """WF6: a workflow is there whole, as it was planned, or not at all."""
    known = {row["id"] for row in woven.workflows}
    names = {row["name"] for row in woven.workflows if row["root_id"] == row["id"]}
    for root in woven.members.keys() - known:
        yield Violation("WF6", f"{len(woven.members[root])} jobs belong to workflow {root}, which is nowhere")
    for name, outcome in woven.promised.items():
        if not name.startswith(KEY) and outcome != "info" and (outcome == "ok") != (name in names):
            yield Violation("WF6", f"workflow {name} is {'' if name in names else 'not '}there, and was {outcome}")
    grown = known - woven.graphs.keys()  # workflows that were not planned whole
    mine = [row for row in woven.edges if row["workflow_id"] not in grown]
    edges = Counter((row["parent_id"], row["child_id"], row["runs_after"]) for row in mine)
    for root, graph in woven.graphs.items():
        replay = Replay(woven, root, graph)
        groups = sorted(row["id"] for row in woven.workflows if row["root_id"] == root)
        if len(groups) != len(graph.groups):
            yield Violation("WF6", f"workflow {root} has {len(groups)} of {len(graph.groups)} groups")
            continue
        if sorted(replay.numbers) != sorted(number_of(row["args"]) for row in woven.members.get(root, [])):
            yield Violation("WF6", f"workflow {root} has {len(woven.members.get(root, []))} of {len(graph.nodes)} jobs")
        for edge in graph.edges:
            parent = replay.ids[edge.parent] if edge.parent >= 0 else groups[-1 - edge.parent]
            edges[parent, replay.ids[edge.child], edge.when] -= 1
    for edge_row, count in edges.items():
        if count:
            yield Violation("WF6", f"edge {edge_row} is there {count:+} times")


Check = Callable[[Woven], Iterator[Violation]]
CHECKS: tuple[Check, ...] = (left_over, counters, whole, played)
