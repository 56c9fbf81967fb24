"""A borrowed asyncpg connection."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, TypeVar

from pgqueue.errors import NotAllowed, NotMigrated
from pgqueue.queries import Query

T = TypeVar("T")
_PLACEHOLDER = re.compile(r"%\((\w+)\)s|%%")
_NO_TABLES = ("42P01", "42703", "3F000", "42883")  # table, column, schema, function: as in db.py
_NOT_ALLOWED = "42501"


class Asyncpg:
    """A borrowed asyncpg connection, as far as the verbs of a caller need one. The statements are the same."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    async def run(self, query: Query[T]) -> T:
        """Execute a query in the caller's transaction. Never commits."""
        given = query.params
        texts = frozenset(name for name, value in given.items() if isinstance(value, str))
        statement, names = _numbered(query.sql, texts)
        with _explained():
            return query.read(await self._conn.fetch(statement, *[given[name] for name in names]))

    def all_or_nothing(self) -> AbstractAsyncContextManager[Any]:
        """Make several statements one unit; in a transaction of the caller's that is the unit already."""
        own: AbstractAsyncContextManager[Any] = self._conn.transaction()
        return own if self.is_own else nullcontext()

    @property
    def is_own(self) -> bool:
        """Whether nobody is in a transaction on this connection."""
        return not self._conn.is_in_transaction()

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Make several statements one unit inside a transaction, also one that was begun by hand: asyncpg's own
        savepoints refuse that."""
        await self._conn.execute("savepoint pgqueue")
        try:
            yield
        except BaseException:
            await self._conn.execute("rollback to savepoint pgqueue; release savepoint pgqueue")
            raise
        await self._conn.execute("release savepoint pgqueue")


@lru_cache(maxsize=256)
def _numbered(statement: bytes, texts: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """Return a statement with $1, $2 … in place of names, and the names in that order.

    asyncpg asks the server for the type of each parameter and wants a Python value of it. Arrays that we write as text
    would be refused, so what is a text here is declared one, and the cast that follows in the statement reads it.
    """
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "%"
        position = numbers.setdefault(name, len(numbers) + 1)
        return f"${position}::text" if name in texts else f"${position}"

    return _PLACEHOLDER.sub(number, statement.decode()), tuple(numbers)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        state, message = getattr(error, "sqlstate", None), "".join(str(error).splitlines()[:1])
        if state in _NO_TABLES:
            raise NotMigrated(
                f"this database does not have the tables this pgqueue needs ({message}): run `pgqueue migrate`"
            ) from None
        if state == _NOT_ALLOWED:
            raise NotAllowed(f"{message} (docs/operations.md says what each role needs)") from None
        raise
