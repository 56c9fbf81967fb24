"""The order of the nodes of a workflow: each after those that it needs."""

from collections.abc import Iterator, Sequence
from typing import Any

from pgqueue.client.canvas.nodes import Node
from pgqueue.errors import InvalidWorkflow


def in_order(workflow: str, nodes: Sequence[Node[Any]]) -> list[Node[Any]]:
    """Return nodes so that each stands after those that it needs, else as they were added.

    Raises InvalidWorkflow, with the path, for a circle.
    """
    done: dict[Node[Any], None] = {}
    for start in nodes:
        if start not in done:
            _visit(workflow, start, done)
    return list(done)


def _visit(workflow: str, start: Node[Any], done: dict[Node[Any], None]) -> None:
    """Append a node and what it needs; without recursion, for a path may be as long as a workflow has nodes."""
    path: dict[Node[Any], Iterator[Node[Any]]] = {start: _needed(start)}
    while path:
        node, needs = next(reversed(path.items()))
        for needed in needs:
            if needed in path:
                names = [each.name for each in path]
                circle = [*names[names.index(needed.name) :], needed.name]
                raise InvalidWorkflow(
                    f"workflow {workflow} has a circle: {' waits for '.join(circle)}: take one of these out"
                )
            if needed not in done:
                path[needed] = _needed(needed)
                break
        else:
            del path[node]
            done[node] = None


def _needed(node: Node[Any]) -> Iterator[Node[Any]]:
    return (condition.node for condition in node._needs)
