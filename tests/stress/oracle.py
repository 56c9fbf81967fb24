"""The oracle of workflows: what must become of each job of a graph, from what happened to single ones of them.

It knows the graph alone, no row: which jobs die if they run, and which somebody has cancelled. What it foresees is
compared with the tables when nothing is left to do.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pgqueue.workflows.graph import Edge, Graph

SUCCEEDED, FAILED, CANCELLED, SKIPPED = "succeeded", "failed", "cancelled", "skipped"


@dataclass(frozen=True)
class Foreseen:
    """What must become of the jobs and groups of a graph. `may_run`: whether all edges of a job are met at the end."""

    states: list[str]
    groups: list[str]
    may_run: list[bool]


class Oracle:
    """Foresees the ends of one graph. Things are nodes 0, 1, … and groups -1, -2, …, as edges name them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.edges: dict[int, list[Edge]] = defaultdict(list)  # by child
        self.members: dict[int, list[int]] = {-1 - group: [] for group in range(len(graph.groups))}
        for edge in graph.edges:
            self.edges[edge.child].append(edge)
        for node, group in enumerate(graph.group_of):
            if group is not None:
                self.members[-1 - group].append(node)
        for number, each in enumerate(graph.groups):
            if each.parent is not None:
                self.members[-1 - each.parent].append(-1 - number)
        self._after: dict[int, list[int]] = defaultdict(list)
        for thing in [*range(len(graph.nodes)), *self.members]:
            for before in self._waits(thing):
                self._after[before].append(thing)

    def _waits(self, thing: int) -> Iterable[int]:
        return self.members[thing] if thing < 0 else [edge.parent for edge in self.edges[thing]]

    def nodes_in(self, group: int) -> Iterator[int]:
        """The nodes of a group and of those within it."""
        for member in self.members[group]:
            yield from [member] if member >= 0 else self.nodes_in(member)

    def foresee(self, dies: Collection[int], by_hand: Collection[int] = (), settled: Collection[int] = ()) -> Foreseen:
        """Return what must become of the graph if these nodes die when they run, and somebody cancels those others.

        `settled` had succeeded before a retry: what becomes of their parents afterwards does not matter to them.
        """
        states = dict.fromkeys(by_hand, CANCELLED) | dict.fromkeys(settled, SUCCEEDED)
        left = {thing: len(list(self._waits(thing))) for thing in [*range(len(self.graph.nodes)), *self.members]}
        ready = [*states, *(thing for thing, count in left.items() if count == 0 and thing not in states)]
        for thing in ready:  # it grows
            if thing not in states:
                states[thing] = self._end_of(thing, states, dies)
            for after in self._after[thing]:
                left[after] -= 1
                if left[after] == 0 and after not in states:
                    ready.append(after)
        nodes = range(len(self.graph.nodes))
        may_run = [all(is_met(edge, states[edge.parent]) for edge in self.edges[node]) for node in nodes]
        groups = [states[-1 - group] for group in range(len(self.graph.groups))]
        return Foreseen([states[node] for node in nodes], groups, may_run)

    def _end_of(self, thing: int, states: dict[int, str], dies: Collection[int]) -> str:
        if thing < 0:
            return end_of_group(states[member] for member in self.members[thing])
        if not all(is_met(edge, states[edge.parent]) for edge in self.edges[thing]):
            return SKIPPED
        return FAILED if thing in dies else SUCCEEDED

    def inputs(self, node: int, state_of: Callable[[int], str], result: Callable[[int], Any]) -> dict[str, Any]:
        """Return the arguments of a node that are results of others: `result` makes those of nodes that succeeded."""
        found: dict[str, list[Edge]] = defaultdict(list)
        for edge in self.edges[node]:
            if edge.argument is not None:
                found[edge.argument].append(edge)
        return {name: self._argument(edges, state_of, result) for name, edges in found.items()}

    def _argument(self, edges: list[Edge], state_of: Callable[[int], str], result: Callable[[int], Any]) -> Any:
        edges = sorted(edges, key=lambda edge: -1 if edge.position is None else edge.position)
        items = [list(self._items(edge, state_of, result)) for edge in edges]
        if len(edges) == 1 and edges[0].position is None:
            return items[0] if edges[0].parent < 0 else items[0][0]
        return [item if edge.parent < 0 else item[0] for edge, item in zip(edges, items, strict=True)]

    def _items(self, edge: Edge, state_of: Callable[[int], str], result: Callable[[int], Any]) -> Iterator[Any]:
        for source in [edge.parent] if edge.parent >= 0 else self.members[edge.parent]:
            if source >= 0:
                state = state_of(source)
                value = result(source) if state == SUCCEEDED else None
                shown = CANCELLED if state == SKIPPED else state
                yield value if edge.when == "s" else {"state": shown, "result": value}


def is_met(edge: Edge, state: str) -> bool:
    """Whether the end of its parent meets an edge."""
    return edge.when == "e" or state == {"s": SUCCEEDED, "f": FAILED}[edge.when]


def end_of_group(members: Iterable[str]) -> str:
    """Return how a group of such members has ended: what was skipped counts for nothing."""
    found = set(members)
    return FAILED if FAILED in found else CANCELLED if CANCELLED in found else SUCCEEDED
