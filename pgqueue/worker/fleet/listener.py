"""The duty that listens for all schemas of a database, on one connection."""

import psycopg

from pgqueue.db.connection import AsyncConnection
from pgqueue.db.link import DEADLINE, Link
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries
from pgqueue.queries.base import does_answer
from pgqueue.timing import monotonic
from pgqueue.worker.host import Hears

PING_SECONDS = 30.0
JOIN_SECONDS = 0.25  # within which a schema that joins is listened for


class SharedListener(Duty):
    """Hears the notifications of each schema that has joined, by its channel, which has the schema's name."""

    name = "listen"
    interruptible = True

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._hears: dict[str, tuple[Queries, Hears]] = {}
        self._conn: AsyncConnection | None = None
        self._heard: dict[str, Hears] = {}  # of those that this connection listens for

    def join(self, schema: str, queries: Queries, hears: Hears) -> None:
        """Listen for a schema."""
        self._hears[schema] = queries, hears

    def leave(self, schema: str) -> None:
        """Listen for a schema no longer."""
        self._hears.pop(schema, None)

    def listens_for(self, schema: str) -> bool:
        """Whether notifications of a schema arrive now."""
        return self._conn is not None and not self._conn.closed and schema in self._heard

    async def step(self) -> float:
        """Listen for a while. Each step begins with a question, which shows whether the connection still works."""
        async with self.link.connection(PING_SECONDS + DEADLINE) as conn:
            if conn is not self._conn:
                self._conn, self._heard = conn, {}
            await conn.execute(does_answer().sql)
            until = monotonic() + PING_SECONDS
            while monotonic() < until and not self._stopping.is_set():
                await self._follow_members(conn)
                async for notification in conn.notifies(timeout=JOIN_SECONDS):
                    if (hears := self._heard.get(notification.channel)) is not None:
                        hears.hear(notification.payload)
        return 0.0

    async def _follow_members(self, conn: psycopg.AsyncConnection[object]) -> None:
        for schema in self._heard.keys() - self._hears.keys():
            await conn.execute(Queries(schema).workers.unlisten().sql)
            del self._heard[schema]
        for schema, (queries, hears) in [*self._hears.items()]:
            if self._heard.get(schema) is not hears:
                await conn.execute(queries.workers.listen().sql)
                self._heard[schema] = hears
                hears.listening()
