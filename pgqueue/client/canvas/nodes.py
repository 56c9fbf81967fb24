"""Nodes of a workflow as values: to wait for, and to pass as arguments."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from pgqueue.errors import InvalidWorkflow
from pgqueue.tasks.added import AddedEnd, AddedNode

R = TypeVar("R", covariant=True)

if TYPE_CHECKING:
    _Anything: TypeAlias = Any  # type checkers take a node for any type: it stands for a result that comes later
else:
    _Anything = object


class Node(Generic[R], _Anything):  # type: ignore[misc]
    """A node of a workflow, what `workflow.add(…)` returns. As an argument of another node it is its result."""

    def __init__(self, workflow: object, name: str, needs: "list[Condition]") -> None:
        self._workflow = workflow
        self._name = name
        self._needs = needs

    def __repr__(self) -> str:
        return f"<node {self._name}>"

    @property
    def name(self) -> str:
        """Its name in the workflow."""
        return self._name

    @property
    def failed(self) -> "Condition":
        """The condition that it has failed; as an argument, how it has ended."""
        return Condition(self, "f")

    @property
    def ended(self) -> "Condition":
        """The condition that it has ended, in whatever way; as an argument, how."""
        return Condition(self, "e")

    def after(self, *others: "After") -> "Node[R]":
        """Let it wait for more nodes of the workflow; return it."""
        self._needs += checked(self._workflow, self._name, others)
        return self


@dataclass(slots=True, eq=False)
class Condition:
    """The end of a node for which others wait: `node.failed`, `node.ended`."""

    node: Node[Any] | AddedNode[Any]
    when: str


After: TypeAlias = Node[Any] | Condition
_LATER = (Node, Condition, AddedNode, AddedEnd)


def as_later(value: object) -> "Condition | list[Condition] | None":
    """Return the nodes for which an argument stands: one, or those of a list; None for any other value.

    Raises InvalidWorkflow for a list of nodes and of other values.
    """
    if isinstance(value, _LATER):
        return as_condition(value)
    if not isinstance(value, (list, tuple)):
        return None
    found = [as_condition(each) for each in value if isinstance(each, _LATER)]
    if found and len(found) < len(value):
        raise InvalidWorkflow("a list of nodes as an argument has nodes only: give the other values a parameter")
    return found or None


def as_condition(given: After | AddedNode[Any] | AddedEnd) -> Condition:
    """Return a node as the condition that it has succeeded."""
    if isinstance(given, AddedEnd):
        return Condition(given.node, given.when)
    return given if isinstance(given, Condition) else Condition(given, "s")


def checked(workflow: object, name: str, given: Iterable[object]) -> list[Condition]:
    """Return the conditions of a node. Raises InvalidWorkflow for what is no node of this workflow."""
    return list(_checked(workflow, name, given))


def _checked(workflow: object, name: str, given: Iterable[object]) -> Iterator[Condition]:
    for each in given:
        if not isinstance(each, _LATER):
            raise InvalidWorkflow(f"{name}: after={each!r:.100} cannot be used: give nodes, what add() returned")
        condition = as_condition(each)
        if condition.node._workflow is not workflow:
            raise InvalidWorkflow(
                f"{name} cannot wait for {condition.node.name}, a node of another workflow: add that workflow to this "
                "one, and wait for the node that add() returns"
            )
        yield condition
