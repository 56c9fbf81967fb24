"""Batches: members that are collected one by one, and callbacks for when all of them have ended."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, Never, Self

from pgqueue.client.app_parts import AppParts
from pgqueue.client.canvas.building import Ends, GraphBuilder
from pgqueue.client.canvas.canvas import Canvas, Group, Signature, checked_parts
from pgqueue.client.canvas.enqueueing import Compiles, GraphEnqueuer, refuse_options
from pgqueue.client.canvas.making import MakesSignatures
from pgqueue.client.canvas.run import WorkflowRun
from pgqueue.client.canvas.streaming import AsyncStream, Blocks, Stream, begin, blocks_of
from pgqueue.client.chunks import CHUNK
from pgqueue.client.steps import CURRENT_CONNECTION
from pgqueue.client.waiting import MAX_ID
from pgqueue.client.workflows import Workflows
from pgqueue.config import check_name
from pgqueue.errors import InvalidWorkflow
from pgqueue.queries.workflows.adding import LockedGroup
from pgqueue.workflows.graph import INHERIT, Graph

_WHENS = {"on_success": "s", "on_error": "f", "on_complete": "e"}


class Batch(Compiles):
    """Jobs that are waited for together, and their callbacks: what `app.batch(…)` returns.

    `with app.batch(on_success=…) as batch:` inserts what was added, all or none, at the end of the block; an error in
    the block enqueues nothing. `async with` is the async twin. Where more is added than one statement takes, it goes to
    the database block by block, in one transaction, and is not kept in memory. `batch.run` is the workflow that it has
    become.
    """

    def __init__(
        self, app: AppParts, name: str, callbacks: Mapping[str, Canvas[Any, Any] | None], *, sealed: bool = True,
        into: int | None = None,
    ) -> None:  # fmt: skip
        self._app = app
        self._name = name
        self._callbacks = {when: callback for when, callback in callbacks.items() if callback is not None}
        checked_parts("a callback", self._callbacks.values())
        if into is not None and self._callbacks:
            raise InvalidWorkflow("a batch that adds to another one has no callbacks: that one has them")
        if into is not None and (type(into) is not int or not 0 < into <= MAX_ID):
            raise InvalidWorkflow(f"into={into!r:.100} cannot be used: give the id of a workflow")
        self._sealed = sealed
        self._into = into
        self._members: list[Canvas[Any, Any]] = []
        self._streamed = 0
        self._stream: Stream | None = None
        self._astream: AsyncStream | None = None
        self._blocks: Blocks | None = None
        self._is_in_block = False
        self._conn: object = CURRENT_CONNECTION
        self.run: WorkflowRun | None = None  # once it is enqueued

    def __repr__(self) -> str:
        return f"<batch {self._name} of {len(self)}>"

    def __len__(self) -> int:
        return self._streamed + len(self._members)

    def using(self, conn: object = CURRENT_CONNECTION, /, *, name: str | None = None, **options: Never) -> Self:
        """Let it enqueue on a borrowed connection, as `task.using(conn)` does, and under a name; return the batch.

        Raises InvalidOption for options of jobs: what is added takes them.
        """
        refuse_options("batch", options)
        self._conn = conn
        self._name = self._name if name is None else check_name("batch", name)
        return self

    def enqueue(self) -> WorkflowRun:
        """Insert what was added, all or none; `run` has what this returns."""
        if self._sealed and self._into is None and self._stream is None:
            self.run = GraphEnqueuer(self, self._conn).enqueue()
            return self.run
        with self:
            pass
        return self._enqueued()

    async def aenqueue(self) -> WorkflowRun:
        """The async twin of `enqueue`."""
        if self._sealed and self._into is None and self._astream is None:
            self.run = await GraphEnqueuer(self, self._conn).aenqueue()
            return self.run
        async with self:
            pass
        return self._enqueued()

    def add(self, member: Canvas[Any, Any], /) -> None:
        """Add a signature or a canvas."""
        self._members += checked_parts("a batch", (member,))
        if len(self._members) >= CHUNK and self._is_in_block:
            self._flush()

    async def aadd(self, member: Canvas[Any, Any], /) -> None:
        """The async twin of `add`, in an `async with` block: it does not keep all members in memory."""
        self._members += checked_parts("a batch", (member,))
        if len(self._members) >= CHUNK:
            await self._aflush()

    def add_many(self, task: MakesSignatures[..., Any], calls: Iterable[Mapping[str, Any]], /) -> None:
        """Add a job of a task for each mapping of arguments by name, as `enqueue_many` takes them.

        `calls` may be a generator of millions. In an `async with` block, where they would be kept, use `aadd_many`.
        """
        given = iter(calls)
        if not self._is_in_block:
            self._members += _signatures(task, given)
            return
        while self._add_some(task, given):
            self._flush()
            blocks = blocks_of(task._calls, given)
            for shared, count, args in blocks or ():
                stream, rows = self._running()
                stream.run(rows.add_many(shared, count, args))
                self._streamed += count

    async def aadd_many(self, task: MakesSignatures[..., Any], calls: Iterable[Mapping[str, Any]], /) -> None:
        """The async twin of `add_many`, in an `async with` block."""
        given = iter(calls)
        while self._add_some(task, given):
            await self._aflush()
            blocks = blocks_of(task._calls, given)
            for shared, count, args in blocks or ():
                stream, rows = await self._arunning()
                await stream.run(rows.add_many(shared, count, args))
                self._streamed += count

    def __enter__(self) -> Self:
        self._is_in_block = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_in_block = False
        if self._stream is None:
            if error is not None:
                return
            if self._seals:
                self.enqueue()
                return
        stream, rows = self._running()
        try:
            if error is None:
                self._flush()
                if self._seals:
                    stream.run(rows.seal())
        except BaseException as failure:
            stream.close(failure)
            raise
        stream.close(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._astream is None:
            if error is not None:
                return
            if self._seals:
                await self.aenqueue()
                return
        stream, rows = await self._arunning()
        try:
            if error is None:
                await self._aflush()
                if self._seals:
                    await stream.run(rows.seal())
        except BaseException as failure:
            await stream.close(failure)
            raise
        await stream.close(error)

    @property
    def _seals(self) -> bool:
        return self._sealed and self._into is None

    def _add_some(self, task: MakesSignatures[..., Any], calls: Iterator[Mapping[str, Any]]) -> bool:
        """Add as many as are kept in memory; return whether they are so many that they must be inserted."""
        self._members += _signatures(task, islice(calls, CHUNK - len(self._members)))
        return len(self._members) >= CHUNK

    def _running(self) -> tuple[Stream, Blocks]:
        if self._stream is None or self._blocks is None:
            stream = Stream.open(self._app, self._conn)
            try:
                blocks = self._began(stream.run(begin(self._app, self._into, self._opening)))
            except BaseException as failure:
                stream.close(failure)
                raise
            self._stream, self._blocks = stream, blocks
        return self._stream, self._blocks

    async def _arunning(self) -> tuple[AsyncStream, Blocks]:
        if self._astream is None or self._blocks is None:
            stream = await AsyncStream.open(self._app, self._conn)
            try:
                blocks = self._began(await stream.run(begin(self._app, self._into, self._opening)))
            except BaseException as failure:
                await stream.close(failure)
                raise
            self._astream, self._blocks = stream, blocks
        return self._astream, self._blocks

    def _began(self, into: LockedGroup) -> Blocks:
        self.run = WorkflowRun(into.id, [], Workflows(self._app))
        return Blocks(self._app, into)

    def _enqueued(self) -> WorkflowRun:
        if self.run is None:
            raise InvalidWorkflow(f"batch {self._name} is not enqueued yet")
        return self.run

    def _flush(self) -> None:
        """Insert the members that are kept in memory."""
        stream, rows = self._running()
        if self._members:
            stream.run(rows.add(self._taken()))

    async def _aflush(self) -> None:
        stream, rows = await self._arunning()
        if self._members:
            await stream.run(rows.add(self._taken()))

    def _taken(self) -> Graph:
        """Return the members that are kept in memory as a graph, and keep them no longer."""
        builder = GraphBuilder("added", INHERIT)
        for member in self._members:
            member.place(builder, None, 0, is_group=True)
        self._streamed += len(self._members)
        self._members = []
        return builder.finish()

    def _opening(self) -> Graph:
        """Return the open workflow of the batch, with its callbacks, for members that come block by block."""
        builder = GraphBuilder(self._name)
        builder.graph.sealed = False
        for when, callback in self._callbacks.items():
            callback.place(builder, Ends((-1,), when=_WHENS[when], is_optional=True), None)
        return builder.finish()

    def _build(self, name: str | None) -> GraphBuilder:
        members: Canvas[Any, Any] = Group(self._members)
        for when, callback in self._callbacks.items():
            members = getattr(members, when)(callback)
        builder = members._build(self._name if name is None else name)
        if builder.app is not None and builder.app.tasks is self._app.tasks:
            builder.app = self._app  # maybe a view, of which tasks know nothing
        return builder


class BatchVerbs:
    """The verb of an app that begins batches."""

    def batch(
        self: AppParts,
        *,
        on_success: Canvas[Any, Any] | None = None,
        on_dead: Canvas[Any, Any] | None = None,
        on_complete: Canvas[Any, Any] | None = None,
        name: str = "batch",
        sealed: bool = True,
        into: int | None = None,
    ) -> Batch:
        """Begin a batch: `with app.batch(on_complete=sum_up.s()).using(conn) as batch:`.

        When all its jobs have ended, `on_complete` runs; `on_success` if all have succeeded, `on_dead` if one is a dead
        letter. A callback gets the list of results (`on_success`) or of how they ended if it has a parameter without a
        default that is not given. One that is not `sealed` stays open at the end of the block: it ends only after
        `batch.run.seal()`, and any process may add to it, by its id: `with app.batch(into=id) as more:`.
        """
        callbacks = {"on_success": on_success, "on_error": on_dead, "on_complete": on_complete}
        return Batch(self, check_name("batch", name), callbacks, sealed=sealed, into=into)


def _signatures(task: MakesSignatures[..., Any], calls: Iterable[Mapping[str, Any]]) -> Iterator[Signature[Any, Any]]:
    made = task._calls
    for call in calls:
        if not isinstance(call, Mapping):
            raise InvalidWorkflow(f"add_many: {call!r:.100} does not give arguments by name (as a dict would)")
        yield Signature(made, (), call, takes_result=False)
