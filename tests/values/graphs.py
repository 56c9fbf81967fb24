"""An interpreter of graphs for tests: what each node waits for, what it gets, and how it ends."""

import cProfile
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from pgqueue.workflows.graph import Edge, Graph


def calls_of(work: Callable[[], object]) -> int:
    """Do some work; return how many functions it calls, those of C among them: a measure that no load disturbs."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return sum(entry.callcount for entry in profile.getstats())


@dataclass
class Played:
    """A graph that was played by hand: how each node ended, what it got, and what had ended before it began."""

    states: list[str]
    arguments: list[dict[str, Any]]
    before: list[set[int]]


@dataclass
class Player:
    """Plays a graph with the policy *cancel*. `fails` are nodes that fail if they run; `result` makes their results."""

    graph: Graph
    fails: Collection[int] = ()
    result: Callable[[int], Any] = lambda node: node
    _members: dict[int, list[int]] = field(default_factory=dict)

    def play(self) -> Played:
        """Play it. AssertionError for a graph that the engine must never get, also for one that cannot end."""
        graph, count = self.graph, len(self.graph.nodes)
        self._check()
        done = Played([""] * count, [{} for _ in range(count)], [set() for _ in range(count)])
        left = list(range(count))
        while left:
            ready = [node for node in left if all(done.states[each] for each in self._waits(node))]
            assert ready, f"these wait for each other: {left}"
            for node in ready:
                self._end(node, done)
            left = [node for node in left if not done.states[node]]
        assert len(graph.group_of) == count
        return done

    def members(self, group: int) -> list[int]:
        """The nodes in a group, and in groups in it."""
        if group not in self._members:
            inside = [at for at, each in enumerate(self.graph.groups) if each.parent == group]
            own = [node for node, home in enumerate(self.graph.group_of) if home == group]
            self._members[group] = sorted([*own, *(node for each in inside for node in self.members(each))])
        return self._members[group]

    def sources(self, edge: Edge) -> list[int]:
        """The nodes for which an edge waits."""
        return [edge.parent] if edge.parent >= 0 else self.members(-1 - edge.parent)

    def _edges(self, node: int) -> list[Edge]:
        return [edge for edge in self.graph.edges if edge.child == node]

    def _waits(self, node: int) -> set[int]:
        return {source for edge in self._edges(node) for source in self.sources(edge)}

    def _end(self, node: int, done: Played) -> None:
        for source in self._waits(node):
            done.before[node] |= {source} | done.before[source]
        if not all(self._is_met(edge, done) for edge in self._edges(node)):
            done.states[node] = "cancelled"
            return
        done.arguments[node] = json.loads(self.graph.nodes[node].args)
        for edge in sorted(self._edges(node), key=lambda edge: edge.position or 0):
            self._pass(edge, done)
        done.states[node] = "failed" if node in self.fails else "succeeded"

    def _is_met(self, edge: Edge, done: Played) -> bool:
        states = [done.states[source] for source in self.sources(edge)]
        if edge.when == "s":
            return all(state == "succeeded" for state in states)
        return "failed" in states if edge.when == "f" else True

    def _pass(self, edge: Edge, done: Played) -> None:
        if edge.argument is None:
            return
        arguments = done.arguments[edge.child]
        given = [self.result(each) if edge.when == "s" else done.states[each] for each in self.sources(edge)]
        if edge.parent < 0 and edge.when == "s":  # a list of results has those of nodes, not of groups
            assert all(each.parent != -1 - edge.parent for each in self.graph.groups)
        if edge.position is not None:
            assert len(given) == 1
            arguments.setdefault(edge.argument, []).append(given[0])
        else:
            assert edge.argument not in arguments
            arguments[edge.argument] = given if edge.parent < 0 else given[0]

    def _check(self) -> None:
        graph, pairs = self.graph, [(edge.parent, edge.child) for edge in self.graph.edges]
        assert len(set(pairs)) == len(pairs), "an edge is there twice"
        assert graph.groups[0].parent is None
        assert all(each.parent is not None and each.parent < len(graph.groups) for each in graph.groups[1:])
        for group in range(1, len(graph.groups)):
            assert self.members(group), "a group has no member"
        for edge in graph.edges:
            assert 0 <= edge.child < len(graph.nodes)
            assert edge.child not in self.sources(edge), "a node waits for a group that it is a member of"
