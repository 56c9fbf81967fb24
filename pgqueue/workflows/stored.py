"""A graph as text: what a task hands to its worker, perhaps from another process."""

from functools import cache

from pydantic import TypeAdapter

from pgqueue.workflows.graph import Graph


def to_text(graph: Graph) -> str:
    """Return a graph as JSON, on one line."""
    return _adapter().dump_json(graph).decode()


def from_text(text: str) -> Graph:
    """Return the graph that `to_text` has made a text of."""
    return _adapter().validate_json(text)


@cache
def _adapter() -> TypeAdapter[Graph]:
    return TypeAdapter(Graph)  # made when the first graph is written: it takes milliseconds
