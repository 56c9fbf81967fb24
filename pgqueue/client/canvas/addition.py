"""What is added to a workflow that runs: a graph of new nodes, which may wait for jobs and groups that are there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pgqueue.client.app_parts import AppParts
from pgqueue.client.canvas.building import Ends, GraphBuilder, order_after
from pgqueue.client.canvas.nodes import Condition, as_condition
from pgqueue.client.waiting import MAX_ID
from pgqueue.errors import InvalidWorkflow
from pgqueue.tasks.added import AddedEnd, AddedNode, AfterAdded
from pgqueue.workflows.check import check
from pgqueue.workflows.graph import INHERIT, Graph

R = TypeVar("R", covariant=True)


@dataclass(frozen=True, slots=True)
class NewNodes(Generic[R]):
    """New nodes for a workflow that runs: their graph, whose first group is the one that they become members of, and
    the ends of what was added. `app`: that of its tasks."""

    graph: Graph
    ends: Ends
    app: AppParts

    def row(self, groups: Sequence[int], jobs: Sequence[int]) -> dict[str, Any]:
        """Return what an AddedNode is made of, by the ids that were drawn."""
        ends = self.ends
        of = [jobs[node] if node >= 0 else groups[-1 - node] for node in ends.sources]
        return {
            "jobs": list(jobs),
            "group": None if ends.group is None else groups[ends.group],
            "value": of if ends.has_value else [],
            "list": ends.is_list,
        }


def begin(after: AfterAdded | Iterable[AfterAdded], within: Iterable[Condition]) -> tuple[GraphBuilder, Ends | None]:
    """Return a builder of new nodes, and what all of them wait for.

    `within`: the nodes among their arguments. Raises InvalidWorkflow for what cannot be waited for.
    """
    builder = GraphBuilder("added", INHERIT)
    given = [after] if isinstance(after, (AddedNode, AddedEnd, int)) else list(after)
    conditions = [_condition(each) for each in given]
    for each in (*conditions, *within):
        if not isinstance(each.node, AddedNode):
            raise InvalidWorkflow(f"{each.node!r} was not added to a workflow that runs: give what add() returned")
        _place(builder, each.node)
    ends = [builder.placed[each.node].at_end(each.when) for each in conditions]
    return builder, order_after(*ends) if ends else None


def finish(builder: GraphBuilder, ends: Ends) -> NewNodes[Any]:
    """Return the new nodes that were placed. Raises InvalidWorkflow where there are none."""
    graph = builder.finish()
    if builder.app is None:
        raise InvalidWorkflow("there is nothing to add: the canvas has no jobs")
    return NewNodes(check(graph), ends, builder.app)


def _condition(given: object) -> Condition:
    if type(given) is int and 0 < given <= MAX_ID:
        return as_condition(AddedNode({"jobs": [given], "group": None, "value": [given], "list": False}))
    if not isinstance(given, (AddedNode, AddedEnd)):
        raise InvalidWorkflow(f"after={given!r:.100} cannot be used: give what add() returned, or the id of a job")
    return as_condition(given)


def _place(builder: GraphBuilder, node: AddedNode[Any]) -> None:
    if node in builder.placed:
        return
    group = None if node._group is None else -1 - builder.outside(node._group)
    value = tuple(builder.outside(source) for source in node._value)
    builder.placed[node] = Ends(value, node._gives_list, has_value=bool(value), group=group)
