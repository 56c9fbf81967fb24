"""A batch that is inserted block by block while it is collected, in one transaction."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import Any, TypeVar

from pgqueue import db
from pgqueue.client.adding import begin_adding, open_workflow, seal
from pgqueue.client.app_parts import AppParts
from pgqueue.client.canvas.calls import Calls
from pgqueue.client.chunks import array_chunks
from pgqueue.client.inserting import new_job
from pgqueue.client.joining import connection_to_join
from pgqueue.client.steps import CURRENT_CONNECTION, DefaultConnection, Steps, follow, follow_async
from pgqueue.jobs.job import NewJob
from pgqueue.queries.workflows.adding import LockedGroup
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.check import check
from pgqueue.workflows.gates import with_policy
from pgqueue.workflows.graph import Graph

T = TypeVar("T")


def begin(app: AppParts, into: int | None, opening: Callable[[], Graph]) -> Steps[LockedGroup]:
    """Insert the open workflow of a batch, or begin to add to one that is there."""
    queries = app.queries.workflows
    if into is None:
        inserted: InsertedWorkflow = yield from open_workflow(queries, opening())
        into = inserted.id
    return (yield from begin_adding(queries, into))


class Blocks:
    """What a stream asks of its connection once it has begun, as steps. `into`: the workflow to which it adds."""

    def __init__(self, app: AppParts, into: LockedGroup) -> None:
        self._queries = app.queries.workflows
        self.into = into

    def add(self, graph: Graph) -> Steps[None]:
        """Insert a block of members that are written as a graph."""
        yield self._queries.add(self.into, with_policy(check(graph), self.into.ties))

    def add_many(self, shared: NewJob, count: int, args: str) -> Steps[None]:
        """Insert a block of calls of one task."""
        yield self._queries.add_many(self.into, shared, count, args)

    def seal(self) -> Steps[bool]:
        """Seal the workflow."""
        return (yield from seal(self._queries, self.into.id))


class Stream:
    """A transaction in which blocks of a batch are inserted: the caller's, or one of its own connection."""

    def __init__(self, stack: ExitStack, conn: Any) -> None:
        self._stack = stack
        self._conn = conn

    @classmethod
    def open(cls, app: AppParts, conn: object) -> "Stream":
        """Open the transaction."""
        stack, borrowed = ExitStack(), _borrowed(app, conn)
        own: Any = stack.enter_context(app.backend.pools.connection()) if borrowed is None else db.borrow(borrowed)
        if not db.autocommits(own):
            db.run(
                own, app.queries.jobs.read_mark()
            )  # begins the caller's transaction, or the next line would commit it
        stack.enter_context(own.transaction())
        return cls(stack, own)

    def run(self, steps: Steps[T]) -> T:
        """Run steps in the transaction."""
        return follow(self._conn, steps)

    def close(self, error: BaseException | None) -> None:
        """Commit its own transaction, or end the savepoint in the caller's; after an error roll it back."""
        self._stack.__exit__(None if error is None else type(error), error, None)


class AsyncStream:
    """The async twin of `Stream`."""

    def __init__(self, stack: AsyncExitStack, conn: Any) -> None:
        self._stack = stack
        self._conn = conn

    @classmethod
    async def open(cls, app: AppParts, conn: object) -> "AsyncStream":
        """Open the transaction."""
        stack, borrowed = AsyncExitStack(), _borrowed(app, conn)
        own: Any
        if borrowed is None:
            own = await stack.enter_async_context(app.backend.pools.async_connection())
        else:
            own = await db.borrow_async(borrowed)
        if not db.autocommits(own):
            await db.run_async(own, app.queries.jobs.read_mark())
        await stack.enter_async_context(own.transaction())
        return cls(stack, own)

    async def run(self, steps: Steps[T]) -> T:
        """Run steps in the transaction."""
        return await follow_async(self._conn, steps)

    async def close(self, error: BaseException | None) -> None:
        """Commit its own transaction, or end the savepoint in the caller's; after an error roll it back."""
        await self._stack.__aexit__(None if error is None else type(error), error, None)


def blocks_of(calls: Calls, given: Iterable[Mapping[str, Any]]) -> Iterator[tuple[NewJob, int, str]] | None:
    """Yield calls of one task in blocks: what its jobs share, how many they are, and their arguments.

    None where each job has more of its own than its arguments: a key, an expiry, or a turn.
    """
    spec, settings = calls.spec, calls.settings
    if settings.rules is not None or (spec.metering is not None and spec.metering.is_keyed):
        return None
    shared = new_job("", settings, spec, spec.name, calls.app)
    return ((shared, count, args) for count, args in array_chunks(spec.coder.encode_many(given)))


def _borrowed(app: AppParts, conn: object) -> object | None:
    """Return the connection to borrow; None for an own one."""
    if isinstance(conn, DefaultConnection):
        return connection_to_join(app) if conn is CURRENT_CONNECTION else None
    return conn
