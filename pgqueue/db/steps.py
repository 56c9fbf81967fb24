"""Steps: several statements as one generator, run on a sync or an async connection."""

from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar

from pgqueue import db
from pgqueue.queries import Query

T = TypeVar("T")
# Queries one after the other, each asked for by what came back before: alike on sync and async connections.
Steps: TypeAlias = Generator[Query[Any], Any, T]


def follow(conn: db.Connection, steps: Steps[T]) -> T:
    """Run the statements of some steps, each with the answer to the one before."""
    answer = None
    while True:
        try:
            query = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        answer = db.run(conn, query)


async def follow_async(conn: db.AnyAsyncConnection, steps: Steps[T]) -> T:
    """Run the statements of some steps, each with the answer to the one before."""
    answer = None
    while True:
        try:
            query = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        answer = await db.run_async(conn, query)
