"""Batches: members that are collected one by one, and callbacks for when all of them have ended."""

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from pgqueue.client.canvas.building import GraphBuilder
from pgqueue.client.canvas.canvas import Canvas, Group, Signature, checked_parts
from pgqueue.client.canvas.enqueueing import Compiles, GraphEnqueuer
from pgqueue.client.canvas.making import MakesSignatures
from pgqueue.client.canvas.run import WorkflowRun
from pgqueue.client.steps import CURRENT_CONNECTION
from pgqueue.config import check_name
from pgqueue.errors import InvalidWorkflow


class Batch(Compiles):
    """Jobs that are waited for together, and their callbacks: what `app.batch(…)` returns.

    `with app.batch(on_success=…) as batch:` enqueues what was added, all or none, at the end of the block; an error in
    the block enqueues nothing. `async with` is the async twin. `batch.run` is the workflow that it has become.
    """

    def __init__(self, name: str, callbacks: Mapping[str, Canvas[Any, Any] | None]) -> None:
        self._name = name
        self._callbacks = {when: callback for when, callback in callbacks.items() if callback is not None}
        checked_parts("a callback", self._callbacks.values())
        self._members: list[Canvas[Any, Any]] = []
        self._conn: object = CURRENT_CONNECTION
        self.run: WorkflowRun | None = None  # once it is enqueued

    def __repr__(self) -> str:
        return f"<batch {self._name} of {len(self._members)}>"

    def __len__(self) -> int:
        return len(self._members)

    def using(self, conn: object = CURRENT_CONNECTION, /, *, name: str | None = None) -> Self:
        """Let it enqueue on a borrowed connection, as `task.using(conn)` does, and under a name; return the batch."""
        self._conn = conn
        self._name = self._name if name is None else check_name("batch", name)
        return self

    def enqueue(self) -> WorkflowRun:
        """Insert what was added, all or none; `run` has what this returns."""
        self.run = GraphEnqueuer(self, self._conn).enqueue()
        return self.run

    async def aenqueue(self) -> WorkflowRun:
        """The async twin of `enqueue`."""
        self.run = await GraphEnqueuer(self, self._conn).aenqueue()
        return self.run

    def add(self, member: Canvas[Any, Any], /) -> None:
        """Add a signature or a canvas."""
        self._members += checked_parts("a batch", (member,))

    def add_many(self, task: MakesSignatures[..., Any], calls: Iterable[Mapping[str, Any]], /) -> None:
        """Add a job of a task for each mapping of arguments by name, as `enqueue_many` takes them."""
        made = task._calls
        for call in calls:
            if not isinstance(call, Mapping):
                raise InvalidWorkflow(f"add_many: {call!r:.100} does not give arguments by name (as a dict would)")
            self._members.append(Signature(made, (), call, takes_result=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.enqueue()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is None:
            await self.aenqueue()

    def _build(self, name: str | None) -> GraphBuilder:
        members: Canvas[Any, Any] = Group(self._members)
        for when, callback in self._callbacks.items():
            members = getattr(members, when)(callback)
        return members._build(self._name if name is None else name)


class BatchVerbs:
    """The verb of an app that begins batches."""

    def batch(
        self,
        *,
        on_success: Canvas[Any, Any] | None = None,
        on_dead: Canvas[Any, Any] | None = None,
        on_complete: Canvas[Any, Any] | None = None,
        name: str = "batch",
    ) -> Batch:
        """Begin a batch: `with app.batch(on_complete=sum_up.s()).using(conn) as batch:`.

        When all its jobs have ended, `on_complete` runs; `on_success` if all have succeeded, `on_dead` if one is a dead
        letter. A callback gets the list of results (`on_success`) or of how they ended if it has a parameter without a
        default that is not given.
        """
        callbacks = {"on_success": on_success, "on_error": on_dead, "on_complete": on_complete}
        return Batch(check_name("batch", name), callbacks)
