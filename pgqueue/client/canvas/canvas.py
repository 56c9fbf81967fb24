"""The canvas: signatures of tasks, and chains and groups of them, nested in any way. Values, until one is enqueued."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Never, Self, TypeVar, Unpack, overload

from pgqueue.client.app_parts import AppParts
from pgqueue.client.canvas.addition import NewNodes, begin, finish
from pgqueue.client.canvas.building import Ends, GraphBuilder, order_after, titled
from pgqueue.client.canvas.calls import Calls
from pgqueue.client.canvas.enqueueing import Compiles, GraphEnqueuer, refuse_options
from pgqueue.client.canvas.nodes import Condition, as_later
from pgqueue.client.canvas.standing import standing_in
from pgqueue.client.steps import CURRENT_CONNECTION
from pgqueue.config import check_name
from pgqueue.errors import InvalidArguments, InvalidWorkflow
from pgqueue.jobs.job import NewJob
from pgqueue.jobs.other_names import OF_CANVAS, tells_of
from pgqueue.tasks.added import AfterAdded
from pgqueue.tasks.calls import TaskCall
from pgqueue.tasks.headers import merged
from pgqueue.tasks.options import CallOptions
from pgqueue.tasks.stand_in import StandIn
from pgqueue.tasks.versions import NODE

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
Next = TypeVar("Next")
M = TypeVar("M")


class Canvas(Compiles, TaskCall[Out], Generic[In, Out]):
    """Jobs to enqueue together, and what comes after what: a signature, a chain or a group.

    `In` is what it takes from the step before it, `Out` what it gives to the next one.
    """

    _inherits = True
    _callbacks: "tuple[tuple[str, Canvas[Any, Any]], ...]" = ()

    if not TYPE_CHECKING:
        __getattr__ = tells_of(OF_CANVAS, "a canvas")

    @overload
    def __or__(self, other: "Group[Out, M]") -> "Group[In, M]": ...
    @overload
    def __or__(self, other: "Canvas[Out, Next]") -> "Canvas[In, Next]": ...
    def __or__(self, other: Any) -> Any:
        """Return a chain of this one and the next."""
        return Chain([self, other]) if isinstance(other, Canvas) else NotImplemented

    def using(
        self, conn: object = CURRENT_CONNECTION, /, *, name: str | None = None, **options: Never
    ) -> GraphEnqueuer:
        """Bind a connection to borrow, as `task.using(conn)` does, and a name for the workflow.

        Raises InvalidOption for options of jobs: its signatures take them.
        """
        refuse_options("canvas", options)
        return GraphEnqueuer(self, conn, name)

    def on_success(self, callback: "Canvas[Any, Any]") -> Self:
        """Return the same canvas with a callback that runs when it has succeeded. Nothing waits for a callback.

        A callback gets the result (`on_error` and `on_complete`: how it ended) if it has a parameter without a default
        that is not given.
        """
        return self._with("s", callback)

    def on_error(self, callback: "Canvas[Any, Any]") -> Self:
        """Return the same canvas with a callback that runs when it has ended and a job of it has failed."""
        return self._with("f", callback)

    def on_complete(self, callback: "Canvas[Any, Any]") -> Self:
        """Return the same canvas with a callback that runs when it has ended, in whatever way."""
        return self._with("e", callback)

    def signatures(self, *, callbacks: bool = True) -> "Iterator[Signature[Any, Any]]":
        """Yield the signatures in it, also those of callbacks unless these are left out."""
        yield from self._own_signatures(callbacks)
        for _, callback in self._callbacks if callbacks else ():
            yield from callback.signatures()

    @property
    def title(self) -> str:
        """A name for it, made of those of its tasks."""
        return titled(each.task for each in self.signatures(callbacks=False))

    def stand_in(self) -> StandIn[Out]:
        """Return what runs in the place of a job whose task returns `ctx.replace(…)` of this canvas."""
        return standing_in(self)

    def addition(self, after: AfterAdded | Iterable[AfterAdded] = (), name: str | None = None) -> NewNodes[Out]:
        """Return it as what is to be added to a workflow that runs: one job as a member, several as a group."""
        builder, before = begin(after, (each for signature in self.signatures() for each in signature.conditions))
        part = self if name is None else self._called(check_name("node", name))
        return finish(builder, part.place(builder, before, 0, is_group=True))

    def _called(self, name: str) -> "Canvas[In, Out]":
        return self

    @property
    def has_callbacks(self) -> bool:
        """Whether callbacks belong to it."""
        return bool(self._callbacks)

    def _build(self, name: str | None) -> GraphBuilder:
        builder = GraphBuilder(self.title if name is None else check_name("workflow", name))
        builder.ends = self.place(builder, None, 0, is_root=True)
        return builder

    def place(
        self,
        builder: GraphBuilder,
        before: Ends | None,
        group: int | None,
        *,
        is_root: bool = False,
        is_group: bool = False,
    ) -> Ends:
        """Place its jobs behind `before` as members of a group, None for callbacks, and its own callbacks; return its
        ends.

        `is_root`: it is all that the graph has. `is_group`: it gets a group of its own, as it does if callbacks need
        one.
        """
        builder.enter()
        first, whole = len(builder.graph.nodes), 0 if is_root else None
        if not (is_root or self._is_one_job) and (is_group or any(when != "s" for when, _ in self._callbacks)):
            whole = self._open_group(builder, group)
        ends = self._place(builder, before, group if whole is None else whole)
        if whole is not None and builder.close_group(whole, first) and not self._is_one_job:
            ends = replace(ends, group=whole)
        for when, callback in self._callbacks:
            self._place_callback(builder, ends, when, callback)
        builder.leave()
        return ends

    def _open_group(self, builder: GraphBuilder, group: int | None) -> int:
        if group is None:
            raise InvalidWorkflow(
                "on_error or on_complete of several jobs in a callback cannot be used: give it to each of the jobs"
            )
        return builder.open_group(self.title, group)

    def _place_callback(self, builder: GraphBuilder, ends: Ends, when: str, callback: "Canvas[Any, Any]") -> None:
        """Place a callback. It is a member of no group: nothing waits for it, and that it is not needed is no failure
        of the rest."""
        if when == "s":
            more = () if ends.group is None else (order_after(Ends((-1 - ends.group,))),)
            before = replace(ends, after=(*ends.after, *more))
        elif self._is_one_job or ends.group is not None:
            before = ends.at_end(when)
        elif when == "f":
            return  # nothing cannot fail
        else:
            before = ends.on("e")
        callback.place(builder, replace(before, is_optional=True), None)

    def _with(self, when: str, callback: "Canvas[Any, Any]") -> Self:
        if not isinstance(callback, Canvas):
            raise InvalidWorkflow(f"{callback!r:.100} is no callback: give task.s(…), or a canvas")
        twin = copy(self)
        twin._callbacks = (*self._callbacks, (when, callback))
        return twin

    _is_one_job = False

    def _own_signatures(self, callbacks: bool) -> "Iterator[Signature[Any, Any]]":
        raise NotImplementedError

    def _place(self, builder: GraphBuilder, before: Ends | None, group: int | None) -> Ends:
        raise NotImplementedError


class Signature(Canvas[In, Out]):
    """One call of a task, perhaps without the first argument, which is then the result of the step before it."""

    _is_one_job = True

    def __init__(
        self, calls: Calls, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, takes_result: bool = True
    ) -> None:
        self._calls = calls
        self._args = args
        self._kwargs = kwargs
        self._takes_result = takes_result
        self._node_name: str | None = None

    def __repr__(self) -> str:
        return f"<signature of {self.task}>"

    @property
    def task(self) -> str:
        """The name of its task."""
        return self._calls.spec.name

    @overload  # type: ignore[override]  # it has options; enqueueing works with what either form returns
    def using(self, conn: object, /, *, name: str | None = None, **options: Unpack[CallOptions]) -> GraphEnqueuer: ...
    @overload
    def using(self, /, **options: Unpack[CallOptions]) -> Self: ...
    def using(self, conn: object = CURRENT_CONNECTION, /, *, name: str | None = None, **options: Any) -> Any:
        """Return the same call with options, those of `task.using(…)`; with a connection, bound to it."""
        twin = copy(self)
        twin._calls = self._calls.using(options) if options else self._calls
        return twin if conn is CURRENT_CONNECTION and name is None else GraphEnqueuer(twin, conn, name)

    @property
    def app(self) -> AppParts:
        """The app of its task."""
        return self._calls.app

    def job(self) -> NewJob:
        """Return the job of this call, which has all its arguments. Raises InvalidArguments."""
        return self._calls.job(self._args, self._kwargs, frozenset())

    def _called(self, name: str) -> "Canvas[In, Out]":
        return self.named(name)

    def named(self, name: str) -> Self:
        """Return the same call with the name of a node, which its job carries as a header."""
        twin = copy(self)
        twin._node_name = name
        return twin

    def _own_signatures(self, callbacks: bool) -> "Iterator[Signature[Any, Any]]":
        yield self

    @property
    def conditions(self) -> Iterator[Condition]:
        """The nodes of a workflow that stand in its arguments."""
        for value in (*self._args, *self._kwargs.values()):
            later = as_later(value)
            if later is not None:
                yield from later if isinstance(later, list) else (later,)

    def _place(self, builder: GraphBuilder, before: Ends | None, group: int | None) -> Ends:
        parameter = self._parameter_of(before)
        args, kwargs, received = self._args, self._kwargs, dict[str, Ends]()
        if parameter is not None and before is not None:
            args, kwargs, received = (), self._named(parameter), {parameter: before}
        if any(as_later(value) is not None for value in (*args, *kwargs.values())):
            args, kwargs = (), kwargs if parameter is not None else self._bound()
            received |= {
                name: builder.value_of(self.task, later)
                for name, value in kwargs.items()
                if (later := as_later(value)) is not None
            }
        if received:
            known: dict[str, Any] = {name: [] for name, ends in received.items() if ends.is_empty_list}
            given = {name: value for name, value in kwargs.items() if name not in received}
            job = self._calls.job((), given | known, frozenset(received.keys() - known.keys()))
        else:
            known, job = {}, self._calls.job(args, kwargs, frozenset())
        if self._node_name is not None:
            job.headers = merged(job.headers, {NODE: self._node_name})
        node = builder.add_node(job, group, self._calls.app)
        if parameter is None:
            builder.receive(before, node, None)
        for name, ends in received.items():
            builder.receive(ends, node, None if name in known else name)
        return Ends((node,))

    def _parameter_of(self, before: Ends | None) -> str | None:
        """Return the parameter that gets what comes before: the first one that is not given by name; positional
        arguments come after it. None where it takes nothing. Raises InvalidWorkflow where none is left."""
        if before is None or not before.has_value or not self._takes_result:
            return None
        parameters = self._calls.spec.coder.signature.parameters.values()
        left = [each for each in parameters if each.name not in self._kwargs]
        if before.is_optional:
            return self._needed_parameter(left)
        if len(self._args) >= len(left):
            raise InvalidWorkflow(
                f"task {self.task} has no parameter left for the result of the step before it: use "
                f"{self.task.rpartition('.')[2]}.si(…), which takes none"
            )
        return left[0].name

    def _needed_parameter(self, left: list[inspect.Parameter]) -> str | None:
        """Return which of the parameters that are not given by name gets a value that may be left out: the first one,
        or else the first one that the call leaves without a value. None where it has all that it needs."""
        given = {name for name, _ in zip(self._places, self._args, strict=False)}
        missing = [each.name for each in left if each.default is each.empty and each.name not in given]
        if not missing:
            return None
        return left[0].name if left[0].default is left[0].empty else missing[0]

    @property
    def _places(self) -> list[str]:
        """The parameters that arguments by position may be for."""
        return [name for name in self._calls.spec.coder.positional if name not in self._kwargs]

    def _named(self, parameter: str) -> Mapping[str, Any]:
        """Return the arguments by name where this parameter's comes later."""
        if not self._args:
            return self._kwargs
        names = [name for name in self._places if name != parameter]
        if len(self._args) > len(names):
            signature = self._calls.spec.coder.signature
            raise InvalidArguments(
                self.task,
                [f"{len(self._args)} arguments by position beside the result, which is {parameter}: {signature}"],
            )
        return {**dict(zip(names, self._args, strict=False)), **self._kwargs}

    def _bound(self) -> Mapping[str, Any]:
        """Return the arguments by name as Python binds them."""
        try:
            return self._calls.spec.coder.signature.bind_partial(*self._args, **self._kwargs).arguments
        except TypeError as error:
            raise InvalidArguments(self.task, [f"{error} (it takes {self._calls.spec.coder.signature})"]) from None


class Chain(Canvas[In, Out]):
    """Steps one after the other: each gets the result of the one before it."""

    def __init__(self, steps: Iterable[Canvas[Any, Any]]) -> None:
        joined = list[Canvas[Any, Any]]()
        for each in checked_parts("a chain", steps):
            if isinstance(each, Chain) and not each._callbacks:
                joined.extend(each._steps)
            else:
                joined.append(each)
        if not joined:
            raise InvalidWorkflow("a chain of nothing cannot be used: give it one step or more")
        self._steps: tuple[Canvas[Any, Any], ...] = tuple(joined)

    def __repr__(self) -> str:
        return f"<chain of {len(self._steps)}>"

    def _own_signatures(self, callbacks: bool) -> Iterator[Signature[Any, Any]]:
        for step in self._steps:
            yield from step.signatures(callbacks=callbacks)

    def _place(self, builder: GraphBuilder, before: Ends | None, group: int | None) -> Ends:
        ends = self._steps[0].place(builder, before, group)
        for step in self._steps[1:]:
            ends = step.place(builder, ends, group)
        return ends


class Group(Canvas[In, list[M]]):
    """Members that run side by side. What comes next gets the list of their results, in order.

    A group in a group, also one at the end of a chain, adds its members' results to the same list.
    """

    def __init__(self, members: Iterable[Canvas[Any, Any]]) -> None:
        self._members = tuple(checked_parts("a group", members))

    def __repr__(self) -> str:
        return f"<group of {len(self._members)}>"

    def __len__(self) -> int:
        return len(self._members)

    def _own_signatures(self, callbacks: bool) -> Iterator[Signature[Any, Any]]:
        for member in self._members:
            yield from member.signatures(callbacks=callbacks)

    def _place(self, builder: GraphBuilder, before: Ends | None, group: int | None) -> Ends:
        sources: list[int] = []
        after: list[Ends] = []
        for position, member in enumerate(self._members):
            try:
                ends = member.place(builder, before, group)
            except InvalidArguments as error:
                raise error.at(position) if member._is_one_job else error from None
            sources += ends.sources
            after += ends.after
        # What comes next waits for what came before by itself where no member does that for it.
        behind = () if before is None else builder.order(before)
        if sources:
            after = [each for each in after if each not in behind]
        return Ends(tuple(sources), is_list=True, after=tuple(after) if self._members else behind)


def checked_parts(where: str, canvases: Iterable[object]) -> Iterable[Canvas[Any, Any]]:
    """Return the parts of a canvas. Raises InvalidWorkflow for what is none."""
    if isinstance(canvases, (str, bytes)) or not isinstance(canvases, Iterable):
        raise InvalidWorkflow(f"{where} of {canvases!r:.100} cannot be used: give canvases, such as task.s(…)")
    found = list[Canvas[Any, Any]]()
    for each in canvases:
        if not isinstance(each, Canvas):
            raise InvalidWorkflow(f"{where}: {each!r:.100} is no canvas: give task.s(…), a chain or a group")
        found.append(each)
    return found
