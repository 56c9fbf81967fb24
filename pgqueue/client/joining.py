"""Joining: verbs inside a block of `ctx.transaction()` run in its transaction, without being told."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Block:
    """An open block: the app whose worker runs the job, and the connection that the task was lent.

    `conn` is None once the block has ended: an asyncio task that began in it has a copy of its context for longer.
    """

    app: object
    conn: object | None


_block: ContextVar[_Block | None] = ContextVar("pgqueue_block", default=None)


@contextmanager
def joining(app: object, conn: object) -> Iterator[None]:
    """Let the verbs of `app` that are called in this block, and that name no connection, run on `conn`."""
    block = _Block(app, conn)
    token = _block.set(block)
    try:
        yield
    finally:
        block.conn = None
        with suppress(ValueError):  # an abandoned block is ended by whoever collects it, in another context
            _block.reset(token)


def connection_to_join(app: object) -> object | None:
    """Return the connection of the block around this call, if a worker of this very app lent it."""
    block = _block.get()
    return block.conn if block is not None and block.app is app else None
