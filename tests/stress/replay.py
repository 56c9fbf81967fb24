"""The moves of one workflow, played again in order: what each of its jobs met when it began, and in which life."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from pgqueue.workflows.graph import Edge, Graph

from .oracle import CANCELLED, FAILED, SKIPPED, SUCCEEDED, Oracle, end_of_group, is_met
from .violation import Violation
from .woven import TERMINAL, Row, Woven, number_of

# Why single jobs are cancelled, which may have been doomed by then. Who ends many in one statement says "skipped" of
# those that were doomed before it; of those that it dooms by itself no order can be told.
ALONE = ("by hand", "expired")


@dataclass
class Replay:
    """One workflow. `ended`: the end of each node, as others see it, by now; a dead letter whose workflow holds is
    none until it is discarded."""

    woven: Woven
    root: int
    graph: Graph
    ended: dict[int, str] = field(default_factory=dict)
    shown: dict[int, str] = field(default_factory=dict)  # the state in the row: a discarded job is a cancelled one
    inputs: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)  # by job and lease
    succeeded_at: dict[int, datetime] = field(default_factory=dict)
    revived_at: datetime | None = None
    released: Counter[int] = field(default_factory=Counter)  # in this life
    began: dict[int, list[datetime]] = field(default_factory=dict)
    back: set[int] = field(default_factory=set)  # by a retry, after which no job has moved yet
    doomed: set[int] = field(default_factory=set)  # by a retry

    def __post_init__(self) -> None:
        self.oracle = Oracle(self.graph)
        self.numbers = [number_of(job.args) for job in self.graph.nodes]
        found = {number_of(row["args"]): row["id"] for row in self.woven.members.get(self.root, [])}
        self.ids = [found.get(number, 0) for number in self.numbers]
        self.node_of = {job: node for node, job in enumerate(self.ids)}
        self.groups = sorted(row["id"] for row in self.woven.workflows if row["root_id"] == self.root)

    @cached_property
    def holding(self) -> set[int]:
        """The nodes whose dead letters are no ends: their group holds, or one around it."""
        return {node for node, group in enumerate(self.graph.group_of) if self._holds(group)}

    def _holds(self, group: int | None) -> bool:
        while group is not None:
            if self.graph.groups[group].on_failure == "hold":
                return True
            group = self.graph.groups[group].parent
        return False

    def state_of(self, thing: int) -> str | None:
        """How a node or a group has ended by now."""
        if thing >= 0:
            return self.ended.get(thing)
        states = [self.state_of(member) for member in self.oracle.members[thing]]
        return None if None in states else end_of_group(state for state in states if state)

    def play(self) -> Iterator[Violation]:
        """Play all moves."""
        mine = sorted((m for job in self.ids for m in self.woven.moves_of.get(job, [])), key=lambda move: move["at"])
        for move in mine:
            node, source, target = self.node_of[move["job_id"]], move["from_state"], move["to_state"]
            if source in TERMINAL and target not in TERMINAL:
                yield from self._revive(node, move)
            else:
                self._doom()
            if move["reason"] == "ready":
                yield from self._release(node, move)
            if target == "running":
                yield from self._begin(node, move)
            if target in TERMINAL:
                self._end(node, move)

    def _revive(self, node: int, move: Row) -> Iterator[Violation]:
        if move["from_state"] == "succeeded":
            yield Violation("WF9", f"job {move['job_id']} had succeeded and came back: {move['reason']}")
        if self.ended.pop(node, None) is not None:
            self.revived_at = move["at"]
            self.back.add(node)
        self.released[node] = 0

    def _doom(self) -> None:
        """Find those that came back and cannot run: the retry itself has doomed them, also for each other."""
        while more := {node for node in self.back if any(map(self._is_never_met, self.oracle.edges[node]))}:
            self.back -= more
            self.doomed |= more
        self.back.clear()

    def _is_never_met(self, edge: Edge) -> bool:
        if edge.when == "e":
            return False
        if edge.parent < 0:  # a group in which nothing else comes back does not fail, unless it has failed
            within = set(self.oracle.nodes_in(edge.parent))
            has_failed = FAILED in {self.ended.get(node) for node in within}
            return edge.when == "f" and not has_failed and self.back.isdisjoint(within)
        state = self.ended.get(edge.parent)
        return edge.parent in self.doomed or (state is not None and not is_met(edge, state))

    def _release(self, node: int, move: Row) -> Iterator[Violation]:
        self.released[node] += 1
        if self.released[node] > 1:
            number = "WF1" if self.graph.group_of[node] is not None else "WF4"
            yield Violation(number, f"job {move['job_id']} was released {self.released[node]} times in one life")

    def _begin(self, node: int, move: Row) -> Iterator[Violation]:
        job = move["job_id"]
        self.began.setdefault(node, []).append(move["at"])
        for edge in self.oracle.edges[node]:
            state = self.state_of(edge.parent)
            if state is None:
                yield Violation("WF1", f"job {job} began at {move['at']} before {self.tell(edge)} had ended")
            elif not is_met(edge, state):
                parent = f"{self.tell(edge)} has {state}, and the edge wants {edge.when}"
                yield Violation("WF5", f"job {job} began though {parent}")
        first_life = self.revived_at is None
        if first_life and self.oracle.edges[node] and not self.released[node] and len(self.began[node]) == 1:
            yield Violation("WF1", f"job {job} waits for others and began without having been released")
        self.inputs[job, move["lease"]] = self.oracle.inputs(
            node, lambda source: self.shown.get(source, ""), lambda source: self.numbers[source]
        )

    def _end(self, node: int, move: Row) -> None:
        target, reason = move["to_state"], move["reason"] or ""
        if move["from_state"] == "failed":
            self.ended[node] = FAILED  # it is discarded, and its children see a failure
        elif target == "cancelled":
            alone = reason in ALONE and (node in self.doomed or self._is_doomed(node, move["at"]))
            self.ended[node] = SKIPPED if reason == "skipped" or alone else CANCELLED
        elif target == "failed":
            if node not in self.holding:
                self.ended[node] = FAILED
        else:
            self.ended[node] = SUCCEEDED
            self.succeeded_at[node] = move["at"]
        self.shown[node] = target
        self.doomed.discard(node)

    def _is_doomed(self, node: int, at: datetime) -> bool:
        """Whether an edge of a job that has not begun cannot be met any more, and the job was told."""
        edges = [edge for edge in self.oracle.edges[node] if self._told(edge.parent, node, at)]
        states = [(edge, self.state_of(edge.parent)) for edge in edges]
        return any(state is not None and not is_met(edge, state) for edge, state in states)

    def _told(self, parent: int, node: int, at: datetime) -> bool:
        """Whether a job knew of the end of its parent when it ended itself. A statement that lets many jobs expire ends
        both at one time, and no order of those can be told."""
        if parent < 0:
            return self._has_told(-1 - parent, at)
        one, other = (self._finished_at(each, at) for each in (parent, node))
        return one is None or one != other

    def _finished_at(self, node: int, at: datetime) -> datetime | None:
        """When the transaction began in which a node has ended last by a time: in this life, and in no later one."""
        endings = self.woven.endings_of.get(self.ids[node], [])
        return max((row["finished_at"] for row in endings if row["finished_at"] <= at), default=None)

    def _has_told(self, group: int, at: datetime) -> bool:
        """Whether what waits for a group knew of its end at a time: a group is settled by a statement of its own."""
        settlings = self.woven.settlings_of.get(self.groups[group], [])
        return next((row["settled"] for row in reversed(settlings) if row["at"] <= at), False)

    def tell(self, edge: Edge) -> str:
        """Name the parent of an edge."""
        if edge.parent >= 0:
            return f"job {self.ids[edge.parent]}"
        return f"group {self.graph.groups[-1 - edge.parent].name}"
