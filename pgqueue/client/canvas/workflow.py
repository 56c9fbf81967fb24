"""Workflows: nodes that depend on each other in any way that has no circle."""

from collections.abc import Iterable, Iterator
from typing import Any, Generic, Literal, Never, Self, TypeVar, get_args, overload

from pgqueue.client.canvas.addition import NewNodes, begin, finish
from pgqueue.client.canvas.building import Ends, GraphBuilder, order_after
from pgqueue.client.canvas.canvas import Canvas, Signature, checked_parts
from pgqueue.client.canvas.enqueueing import Compiles, GraphEnqueuer, refuse_options
from pgqueue.client.canvas.nodes import After, Condition, Node, checked
from pgqueue.client.canvas.ordering import in_order
from pgqueue.client.canvas.standing import standing_in
from pgqueue.client.steps import CURRENT_CONNECTION
from pgqueue.config import check_name
from pgqueue.errors import InvalidOption, InvalidWorkflow
from pgqueue.tasks.added import AfterAdded
from pgqueue.tasks.stand_in import StandIn

R = TypeVar("R")
OnFailure = Literal["cancel", "stop", "hold"]


class Workflow(Compiles):
    """Nodes that run after each other: a graph of jobs without a circle.

    `on_failure` says what a node that has failed for good does to the others: `cancel` those that depend on it, `stop`
    all that have not begun, or `hold` what depends on it until its dead letter is redriven or discarded. One that is
    not `sealed` is open: it does not end before `app.workflows.seal(id)`, and more may be added until then.
    """

    def __init__(self, name: str, *, on_failure: OnFailure = "cancel", sealed: bool = True) -> None:
        self._name = check_name("workflow", name)
        self._sealed = sealed
        if on_failure not in get_args(OnFailure):
            raise InvalidOption(f"on_failure={on_failure!r:.100} cannot be used: give cancel, stop or hold")
        self._on_failure = on_failure
        self._nodes: list[Node[Any]] = []
        self._parts: dict[Node[Any], Canvas[Any, Any] | Workflow] = {}
        self._names: dict[str, int] = {}  # with how many nodes would have had that name
        self._callbacks: list[tuple[str, Canvas[Any, Any]]] = []

    def __repr__(self) -> str:
        return f"<workflow {self._name}>"

    @staticmethod
    def of(canvas: Canvas[Any, R], *, name: str | None = None, on_failure: OnFailure = "cancel") -> "CanvasWorkflow[R]":
        """Return a workflow of one canvas, named after its tasks unless it has a name: to be part of another one."""
        (part,) = checked_parts("a workflow", (canvas,))
        return CanvasWorkflow(part, part.title if name is None else name, on_failure=on_failure)

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    def using(
        self, conn: object = CURRENT_CONNECTION, /, *, name: str | None = None, **options: Never
    ) -> GraphEnqueuer:
        """Bind a connection to borrow, as `task.using(conn)` does, and another name.

        Raises InvalidOption for options of jobs: what is added takes them.
        """
        refuse_options("workflow", options)
        return GraphEnqueuer(self, conn, name)

    @overload
    def add(
        self,
        part: "Canvas[Any, R] | CanvasWorkflow[R]",
        /,
        *,
        after: After | Iterable[After] = (),
        name: str | None = None,
    ) -> Node[R]: ...
    @overload
    def add(
        self, part: "Workflow", /, *, after: After | Iterable[After] = (), name: str | None = None
    ) -> Node[None]: ...
    def add(self, part: Any, /, *, after: After | Iterable[After] = (), name: str | None = None) -> Any:
        """Add a signature, a canvas or another workflow as a node; return it.

        The node waits for the nodes `after` which it stands, and for those among its arguments, whose results it gets.
        The names of nodes differ; without one it is named after its tasks.
        """
        if not isinstance(part, (Canvas, Workflow)):
            raise InvalidWorkflow(f"{part!r:.100} is no part of a workflow: give task.s(…), a canvas or a workflow")
        node: Node[Any] = Node(self, self._free_name(part, name), [])
        node.after(*((after,) if isinstance(after, (Node, Condition)) else after))
        node._needs.extend(checked(self, node.name, _conditions_in(part)))
        return self._append(node, part if name is None or not isinstance(part, Signature) else part.named(name))

    def _append(self, node: Node[R], part: "Canvas[Any, Any] | Workflow") -> Node[R]:
        self._names[node.name] = 1
        self._nodes.append(node)
        self._parts[node] = part
        return node

    def on_success(self, callback: Canvas[Any, Any]) -> Self:
        """Run a callback when all its nodes have succeeded. The workflow does not wait for its callbacks."""
        return self._with("s", callback)

    def on_error(self, callback: Canvas[Any, Any]) -> Self:
        """Run a callback when it has ended and a node of it has failed."""
        return self._with("f", callback)

    def on_complete(self, callback: Canvas[Any, Any]) -> Self:
        """Run a callback when it has ended, in whatever way."""
        return self._with("e", callback)

    def _with(self, when: str, callback: Canvas[Any, Any]) -> Self:
        (part,) = checked_parts("a callback", (callback,))
        checked(self, "a callback", _conditions_in(part))
        self._callbacks.append((when, part))
        return self

    def _free_name(self, part: "Canvas[Any, Any] | Workflow", name: str | None) -> str:
        if name is not None:
            if check_name("node", name) in self._names:
                raise InvalidWorkflow(f"workflow {self._name} has a node {name!r} already: give this one another name")
            return name
        found = base = part.name if isinstance(part, Workflow) else part.title
        while found in self._names:
            self._names[base] += 1
            found = f"{base}#{self._names[base]}"
        return found

    def addition(self, after: AfterAdded | Iterable[AfterAdded] = (), name: str | None = None) -> NewNodes[Any]:
        """Return it as what is to be added to a workflow that runs, as a workflow within."""
        builder, before = begin(after, _conditions_in(self) if isinstance(self, CanvasWorkflow) else ())
        return finish(builder, self.place(builder, order_after() if before is None else before, 0))

    def stand_in(self) -> StandIn[Any]:
        """Return what runs in the place of a job whose task returns `ctx.replace(…)` of this workflow: its value is
        None, but for a workflow of one canvas."""
        return standing_in(self)

    def _build(self, name: str | None) -> GraphBuilder:
        builder = GraphBuilder(self._name if name is None else check_name("workflow", name), self._on_failure)
        builder.workflows.append(self)
        builder.graph.sealed = self._sealed
        self._place_nodes(builder, None, 0)
        self._place_callbacks(builder, Ends(group=0 if builder.close_group(0, 0) else None))
        return builder

    def place(self, builder: GraphBuilder, before: Ends, group: int) -> Ends:
        """Place its nodes behind `before`, as a group in a group of another workflow; return its ends."""
        if not self._sealed:
            raise InvalidWorkflow(f"workflow {self._name} is open, and cannot be a part of another one: seal it")
        if self in builder.workflows:
            raise InvalidWorkflow(f"workflow {self._name} is a part of itself: take it out of there")
        builder.workflows.append(self)
        first, own = len(builder.graph.nodes), builder.open_group(self._name, group, self._on_failure)
        self._place_nodes(builder, before, own)
        if builder.close_group(own, first):
            ends = Ends(after=(Ends((-1 - own,)),), has_value=False, group=own)
        else:
            ends = before
        self._place_callbacks(builder, ends)
        builder.workflows.pop()
        return ends

    def _place_nodes(self, builder: GraphBuilder, before: Ends | None, group: int) -> None:
        conditional = {each.node for node in self._nodes for each in node._needs if each.when != "s"}
        never = set[Node[Any]]()
        for node in in_order(self._name, self._nodes):
            needs = node._needs
            if any(each.node in never and each.when != "e" for each in needs) or any(
                each.when == "f" and _is_empty(builder.placed[each.node]) for each in needs
            ):
                never.add(node)  # an empty group cannot fail: what waits for that is not even inserted
                continue
            part, own = self._parts[node], [each for each in needs if each.node not in never]
            ends = order_after(*(self._end_of(builder, each) for each in own)) if own else before
            if isinstance(part, Workflow):
                placed = part.place(builder, order_after() if ends is None else ends, group)
            else:
                placed = part.place(builder, ends, group, is_group=node in conditional)
            builder.placed[node] = placed

    def _end_of(self, builder: GraphBuilder, condition: Condition) -> Ends:
        """Return what a node waits for: another one, under a condition."""
        ends = builder.placed[condition.node]
        if condition.when == "s":
            return ends
        return ends.on("e") if _is_empty(ends) else ends.at_end(condition.when)

    def _place_callbacks(self, builder: GraphBuilder, ends: Ends) -> None:
        for when, callback in self._callbacks:
            if ends.group is not None:
                whole = Ends((-1 - ends.group,), when=when, has_value=when != "s", is_optional=True)
                callback.place(builder, whole, None)
            elif when != "f":  # nothing cannot fail
                callback.place(builder, order_after(*builder.order(ends if when == "s" else ends.on("e"))), None)


class CanvasWorkflow(Workflow, Generic[R]):
    """A workflow of one canvas, what `Workflow.of(canvas)` returns: its result is that of the canvas."""

    def __init__(self, canvas: Canvas[Any, R], name: str, *, on_failure: OnFailure = "cancel") -> None:
        super().__init__(name, on_failure=on_failure)
        self.canvas = canvas
        # Nodes among its arguments are those of the workflow that it becomes a part of.
        self._node: Node[R] = self._append(Node(self, canvas.title, []), canvas)

    def stand_in(self) -> StandIn[R]:
        """Return what runs in the place of a job whose task returns `ctx.replace(…)` of this workflow."""
        return standing_in(self)

    def _build(self, name: str | None) -> GraphBuilder:
        builder = super()._build(name)
        builder.ends = builder.placed[self._node]
        return builder

    def place(self, builder: GraphBuilder, before: Ends, group: int) -> Ends:
        """Place the canvas behind `before`, as a group in a group of another workflow; return its ends."""
        whole = super().place(builder, before, group)
        ends = builder.placed[self._node]
        return Ends(ends.sources, ends.is_list, after=(*ends.after, *whole.after), group=whole.group)


def _conditions_in(part: Canvas[Any, Any] | Workflow) -> Iterator[Condition]:
    """Yield the nodes among the arguments of a part."""
    canvas = part.canvas if isinstance(part, CanvasWorkflow) else part
    if isinstance(canvas, Canvas):
        for signature in canvas.signatures():
            yield from signature.conditions


def _is_empty(ends: Ends) -> bool:
    return ends.group is None and not ends.sources
