"""Joining: verbs inside a block of `ctx.transaction()` or `app.bound()`, or where the app is bound to a request's
connection, run in that transaction without being told."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pgqueue.db.drivers import commits_at_once
from pgqueue.errors import NoTransaction


@dataclass(slots=True, eq=False)
class Block:
    """An open block: the origin of the app whose worker runs the job, and the connection that the task was lent.

    `conn` is None once the block has ended: an asyncio task that began in it has a copy of its context for longer.
    `around` is the block in which it was opened, maybe of another app.
    """

    origin: object
    conn: object | None
    around: "Block | None"


class _Apart(Enum):
    OWN = "verbs in the block run on connections of pgqueue's own"


_block: ContextVar[Block | None] = ContextVar("pgqueue_block", default=None)


@contextmanager
def joining(app: "Bindable", conn: object) -> Iterator[Block]:
    """Let the verbs of `app` that are called in this block, and that name no connection, run on `conn`."""
    block = Block(app.origin, conn, _block.get())
    token = _block.set(block)
    try:
        yield block
    finally:
        block.conn = None
        with suppress(ValueError):  # an abandoned block is ended by whoever collects it, in another context
            _block.reset(token)


def apart(app: "Bindable") -> AbstractContextManager[Block]:
    """Let the verbs of `app` in this block join neither the blocks around it nor the transaction of a request."""
    return joining(app, _Apart.OWN)


@dataclass(frozen=True, slots=True)
class Binding:
    """Where the connection of a request is found: `current()` returns it, or None outside of a request."""

    current: Callable[[], object]
    required: bool

    def to_join(self) -> object | None:
        """Return the connection of this request. Raises NoTransaction if there must be one."""
        conn = self.current()
        if conn is not None and not commits_at_once(conn):
            return conn
        if self.required:
            raise NoTransaction(
                "no transaction of a request is open here, and app.bind(…, required=True) asks for one: give "
                "using(conn), or say using(pgqueue.OWN_CONNECTION) for a job that exists at once"
            )
        return None


class Bindable(Protocol):
    """An app. Its views on other schemas of the same database have the same origin."""

    @property
    def binding(self) -> Binding | None: ...
    @property
    def origin(self) -> object: ...


def blocks_here() -> Iterator[Block]:
    """Yield the blocks around this call, the innermost first."""
    block = _block.get()
    while block is not None:
        yield block
        block = block.around


def connection_to_join(app: Bindable) -> object | None:
    """Return the connection of the block around this call that is for this very app, or for a view of it on the same
    database, or else of this request."""
    origin = app.origin
    for block in blocks_here():
        if block.origin is origin and block.conn is not None:
            return None if block.conn is _Apart.OWN else block.conn
    return None if app.binding is None else app.binding.to_join()
