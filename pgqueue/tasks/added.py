"""What was added to a workflow that runs, as a value: to wait for, and to pass as an argument of what is added next."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

R = TypeVar("R", covariant=True)

if TYPE_CHECKING:
    _Anything: TypeAlias = Any  # type checkers take it for any type: as an argument it stands for a result
else:
    _Anything = object


class AddedNode(Generic[R], _Anything):  # type: ignore[misc]
    """Jobs that were added to a workflow that runs: what `ctx.add(…)` and `run.add(…)` return.

    `id`: of the job, or of the group that several jobs are. `jobs`: the ids of all of them, in the order in which they
    are written. As an argument of what is added next it is their result.
    """

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row
        self.jobs: tuple[int, ...] = tuple(row["jobs"])
        self.id: int = self.jobs[0] if row["group"] is None else row["group"]

    def __repr__(self) -> str:
        return f"<added node {self.id}>"

    @property
    def name(self) -> str:
        """What stands for it in messages."""
        return f"added node {self.id}"

    @property
    def failed(self) -> "AddedEnd":
        """The condition that it has failed; as an argument, how it has ended."""
        return AddedEnd(self, "f")

    @property
    def ended(self) -> "AddedEnd":
        """The condition that it has ended, in whatever way; as an argument, how."""
        return AddedEnd(self, "e")

    @property
    def _workflow(self) -> object:
        return self  # a node of no workflow that is being written

    @property
    def _group(self) -> int | None:
        group: int | None = self._row["group"]
        return group

    @property
    def _value(self) -> Sequence[int]:
        value: Sequence[int] = self._row["value"]
        return value

    @property
    def _gives_list(self) -> bool:
        return bool(self._row["list"])


@dataclass(slots=True, eq=False)
class AddedEnd:
    """The end of an added node for which others wait: `node.failed`, `node.ended`."""

    node: AddedNode[Any]
    when: str


# What added jobs may wait for: an added node, an end of one, or a job of the workflow, by its id.
AfterAdded: TypeAlias = AddedNode[Any] | AddedEnd | int


class Addable(Protocol[R]):
    """What can be added to a workflow that runs: a signature, a canvas or a workflow."""

    def addition(self, after: AfterAdded | Iterable[AfterAdded], name: str | None) -> "Addition[R]": ...


class Addition(Protocol[R]):
    """What is to be added, compiled."""

    def row(self, groups: Sequence[int], jobs: Sequence[int]) -> Mapping[str, Any]: ...
