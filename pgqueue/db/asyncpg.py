"""A borrowed asyncpg connection, for the verbs of callers. Workers use psycopg."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache
from typing import Any, TypeVar

from pgqueue.db.failures import explained
from pgqueue.queries import Query

T = TypeVar("T")
_PLACEHOLDER = re.compile(r"%\((\w+)\)[sb]|%%")


class AsyncpgConnection:
    """An asyncpg connection that runs the statements written for psycopg, and has its `transaction()`."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    async def run(self, query: Query[T]) -> T:
        """Run a query in the caller's transaction. It never commits."""
        params = query.params
        texts = frozenset(name for name, value in params.items() if isinstance(value, str))
        statement, names = numbered(query.sql, texts)
        try:
            return query.read(await self._conn.fetch(statement, *[params[name] for name in names]))
        except Exception as error:
            known = explained(error)
            if known is None:
                raise
            raise known from None

    @property
    def autocommits(self) -> bool:
        """Whether each statement commits by itself: no transaction is open."""
        return not self._conn.is_in_transaction()

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Make several statements one unit: a transaction, or a savepoint in one that is open."""
        begun: AbstractAsyncContextManager[Any] = self._conn.transaction() if self.autocommits else self._savepoint()
        return begun

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        # asyncpg's own savepoints refuse a transaction that a statement began.
        await self._conn.execute("savepoint pgqueue")
        try:
            yield
        except BaseException:
            await self._conn.execute("rollback to savepoint pgqueue; release savepoint pgqueue")
            raise
        await self._conn.execute("release savepoint pgqueue")


@lru_cache(maxsize=256)
def numbered(statement: bytes, texts: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """Return a statement with $1, $2 … in place of names, and the names in that order. `texts`: those of str values.

    asyncpg asks the server for the type of each parameter and wants a Python value of that type. It would refuse the
    arrays that we write as text. So each str is declared a text, and the cast that follows in the statement reads it.
    """
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "%"
        position = numbers.setdefault(name, len(numbers) + 1)
        return f"${position}::text" if name in texts else f"${position}"

    return _PLACEHOLDER.sub(number, statement.decode()), tuple(numbers)
