"""Building a graph: nodes are placed one after the other, each behind the ends of what comes before it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from pgqueue.client.app_parts import AppParts
from pgqueue.client.canvas.nodes import Condition, Node
from pgqueue.errors import InvalidWorkflow
from pgqueue.jobs.job import NewJob
from pgqueue.tasks.added import AddedNode
from pgqueue.workflows.graph import OUTSIDE, Edge, Graph, Group

# A list is gathered by edges up to so many of them; beyond, its members are a group, and each receiver has one edge.
MOST_EDGES = 64
DEEPEST = 200  # how deep canvases and workflows may stand in each other


@dataclass(slots=True, eq=False)  # never changed; a frozen one takes three times as long to make
class Ends:
    """The ends of something placed: what comes next waits for them, and gets their results.

    `sources` are nodes, or groups as -1 - g. With `is_list` the value is the list of their results, in order; without,
    there is one source. `after` are more ends to wait for, without their values. `has_value`: False where only the
    order matters. `is_optional`: the value is taken only by a parameter that needs one. `group`: the one that has all
    that was placed, and nothing else.
    """

    sources: tuple[int, ...] = ()
    is_list: bool = False
    when: str = "s"
    after: "tuple[Ends, ...]" = ()
    has_value: bool = True
    is_optional: bool = False
    group: int | None = None

    @property
    def is_empty_list(self) -> bool:
        """Whether the value is known already: a list of nothing."""
        return self.has_value and self.is_list and not self.sources

    def on(self, when: str) -> "Ends":
        """Return the same ends for whom waits for another end of them: after any end, or after failure."""
        return replace(self, when=when, after=tuple(each.on(when) for each in self.after))

    def at_end(self, when: str) -> "Ends":
        """Return the end of the whole, the group or the one job, under a condition; its value is how that ended."""
        return Ends(self.sources if self.group is None else (-1 - self.group,), when=when)


def order_after(*ends: Ends) -> Ends:
    """Return ends to wait for, without a value."""
    return Ends(after=ends, has_value=False)


class GraphBuilder:
    """A graph that grows. `app` is that of the first task that was placed."""

    def __init__(self, name: str, on_failure: str = "cancel") -> None:
        self.graph = Graph([], [], [], [Group(name, None, on_failure)])
        self.app: AppParts | None = None
        self.ends: Ends | None = None  # of the whole, where it has a value
        self.placed: dict[Node[Any] | AddedNode[Any], Ends] = {}  # by node of a workflow
        self.workflows: list[object] = []  # that are being placed, each in the one before
        self._edges: dict[tuple[int, int], Edge] = {}
        self._received: dict[Ends, list[tuple[int, str | None]]] = {}
        self._first_task = ""
        self._orders: dict[Ends, Ends] = {}
        self._depth = 0

    def add_node(self, job: NewJob, group: int | None, app: AppParts) -> int:
        """Place a job; return its number. Raises InvalidWorkflow for a task of another app."""
        if self.app is None:
            self.app, self._first_task = app, job.task
        elif app.tasks is not self.app.tasks:
            raise InvalidWorkflow(
                f"tasks {self._first_task} and {job.task} belong to two apps: a workflow is rows in one schema"
            )
        self.graph.nodes.append(job)
        self.graph.group_of.append(group)
        return len(self.graph.nodes) - 1

    def outside(self, job: int) -> int:
        """Return the number for a job or group that is there already."""
        outside = self.graph.outside
        if job not in outside:
            outside.append(job)
        return OUTSIDE - outside.index(job)

    def open_group(self, name: str, parent: int, on_failure: str | None = None) -> int:
        """Begin a group, with its parent's way to treat a failure unless it has its own; return its number."""
        groups = self.graph.groups
        groups.append(Group(name, parent, on_failure or groups[parent].on_failure))
        return len(groups) - 1

    def close_group(self, group: int, first: int) -> bool:
        """End a group whose nodes would have the numbers from `first` on. Return whether it has one: an empty group is
        taken back."""
        if any(self.graph.group_of[node] is not None for node in range(first, len(self.graph.nodes))):
            return True
        if group > 0:
            del self.graph.groups[group:]
        return False

    def receive(self, ends: Ends | None, child: int, argument: str | None) -> None:
        """Let a node wait for ends, and get their value as an argument if it is named."""
        if ends is not None:
            self._received.setdefault(ends, []).append((child, argument if ends.has_value else None))

    def order(self, ends: Ends) -> tuple[Ends, ...]:
        """Return what to wait for behind these ends where their value does not matter; each time the same."""
        if not ends.sources:
            return ends.after
        if not ends.has_value:
            return (ends,)
        return (self._orders.setdefault(ends, replace(ends, has_value=False)),)

    def value_of(self, task: str, later: Condition | list[Condition]) -> Ends:
        """Return what an argument stands for: the value of a node that was placed, or a list of those of several.

        Raises InvalidWorkflow for what has no value.
        """
        if isinstance(later, Condition):
            return self._value(task, later)
        found = [self._value(task, each) for each in later]
        if any(ends.is_list for ends in found):
            raise InvalidWorkflow(
                f"{task}: a list of nodes has nodes of one result each: give the node of a group a parameter of its own"
            )
        whens = {ends.when for ends in found}
        if len(whens) > 1:
            raise InvalidWorkflow(f"{task}: the nodes of one list are waited for in one way, such as .ended")
        sources = tuple(source for ends in found for source in ends.sources)
        return Ends(sources, True, whens.pop(), tuple(more for ends in found for more in ends.after))

    def _value(self, task: str, condition: Condition) -> Ends:
        ends = self.placed.get(condition.node)
        if ends is None:
            raise InvalidWorkflow(
                f"{task}: {condition.node!r} is an argument outside of its workflow, or of a node that never runs: add "
                "the call to its workflow"
            )
        if condition.when != "s":
            if not ends.sources and ends.group is None:
                raise InvalidWorkflow(f"{task}: {condition.node!r} has no job whose end it could get: use after=…")
            return ends.at_end(condition.when)
        if not ends.has_value:
            raise InvalidWorkflow(
                f"{task}: {condition.node!r} has no result: wait for it by after=…, or take Workflow.of(canvas)"
            )
        return ends

    def enter(self) -> None:
        """Go one level deeper. Raises InvalidWorkflow where that is too deep."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise InvalidWorkflow(f"canvases stand in each other more than {DEEPEST} deep: chain them instead")

    def leave(self) -> None:
        """Go back one level."""
        self._depth -= 1

    def finish(self) -> Graph:
        """Turn what waits for what into edges and groups; return the graph. Raises InvalidWorkflow where a node waits
        for another one in two ways."""
        graph = self.graph
        if graph.sealed and all(
            group is None for group in graph.group_of
        ):  # callbacks of nothing are all that there is
            graph.group_of = [0] * len(graph.nodes)
        members = self._members()
        for ends, receivers in list(self._received.items()):
            self._join(ends, receivers, members)
        graph.edges = sorted(self._edges.values(), key=_place_of)
        return graph

    def _members(self) -> dict[int, list[int]]:
        """Return the members of each group: nodes and, as -1 - g, groups."""
        members: dict[int, list[int]] = {at: [] for at in range(len(self.graph.groups))}
        for node, group in enumerate(self.graph.group_of):
            if group is not None:
                members[group].append(node)
        for at, each in enumerate(self.graph.groups):
            if each.parent is not None:
                members[each.parent].append(-1 - at)
        return members

    def _join(self, ends: Ends, receivers: list[tuple[int, str | None]], members: dict[int, list[int]]) -> None:
        for each in ends.after:
            self._join(each, [(child, None) for child, _ in receivers], members)
        sources = ends.sources
        group = self._group_of_all(ends, len(receivers), members) if ends.is_list else None
        for child, argument in receivers:
            if group is not None:
                self._add_edge(Edge(-1 - group, child, ends.when, argument))
                continue
            for position, source in enumerate(sources):
                at = position if ends.is_list and argument is not None else None
                self._add_edge(Edge(source, child, ends.when, argument, at))

    def _group_of_all(self, ends: Ends, receivers: int, members: dict[int, list[int]]) -> int | None:
        """Return the group whose members are just these sources; a new one where edges would be many; or None."""
        sources = list(ends.sources)
        if (
            not sources or min(sources) < 0 or ends.when == "f"
        ):  # a group has failed when one has, and not when all have
            return None
        group = self.graph.group_of[sources[0]]
        if group is None:
            return None
        if members[group] == sources:
            return group
        if len(sources) < 2 or len(sources) * receivers <= MOST_EDGES:
            return None
        if any(self.graph.group_of[node] != group for node in sources) or not _is_ascending(sources):
            return None
        return self._gather(sources, group, members)

    def _gather(self, sources: list[int], parent: int, members: dict[int, list[int]]) -> int:
        """Make a group of nodes that are members of another one so far."""
        new = self.open_group(titled(self.graph.nodes[node].task for node in sources), parent)
        for node in sources:
            self.graph.group_of[node] = new
        gone = set(sources)
        members[parent] = [*(each for each in members[parent] if each not in gone), -1 - new]
        members[new] = sources
        return new

    def _add_edge(self, edge: Edge) -> None:
        """Add an edge; or join it with the one that is there between the same two, for there may be one only."""
        known = self._edges.setdefault((edge.parent, edge.child), edge)
        if known is edge:
            return
        when = edge.when if known.when == "e" else known.when  # who has succeeded or failed has ended
        child = self.graph.nodes[edge.child].task
        parent = self._named(edge.parent)
        if edge.when not in (when, "e") or any(each.argument and each.when != when for each in (known, edge)):
            raise InvalidWorkflow(
                f"{child} waits for {parent} in two ways (success, .ended or .failed): choose one of them"
            )
        if known.argument is not None and edge.argument is not None:
            raise InvalidWorkflow(
                f"{child} gets the result of {parent} twice, as {known.argument} and {edge.argument}: give it one "
                "parameter for it"
            )
        known.when = when
        if edge.argument is not None:
            known.argument, known.position = edge.argument, edge.position

    def _named(self, unit: int) -> str:
        if unit <= OUTSIDE:
            return f"job {self.graph.outside[OUTSIDE - unit]}"
        return self.graph.groups[-1 - unit].name if unit < 0 else self.graph.nodes[unit].task


def _place_of(edge: Edge) -> tuple[int, int, int]:
    return edge.child, edge.position or 0, edge.parent


def _is_ascending(numbers: list[int]) -> bool:
    return all(one < other for one, other in pairwise(numbers))


def titled(tasks: Iterable[str]) -> str:
    """Return a name made of those of tasks: the first three different ones, without their modules."""
    names = list(dict.fromkeys(name.rpartition(".")[2] for name in tasks))
    return " | ".join([*names[:3], *(["…"] if len(names) > 3 else [])])[:200] or "nothing"
