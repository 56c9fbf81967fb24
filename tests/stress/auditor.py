"""The auditor: looks again and again whether the counters of limits say what runs, each time in one snapshot."""

import asyncio
from contextlib import suppress

import psycopg

from .server import Database
from .turns import AUDIT, Drift

SECONDS = 0.1  # between two looks


class Auditor:
    """Collects drifts until it is stopped; a database that is down is asked again later."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._task: asyncio.Task[None] | None = None
        self.drifts: list[Drift] = []
        self.looks = 0

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            with suppress(psycopg.Error, OSError):
                dsn = self._database.dsn(application_name="stress auditor")
                async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=5) as conn:
                    await self._look(conn)
            await asyncio.sleep(SECONDS)

    async def _look(self, conn: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        while True:
            rows = await (await conn.execute(AUDIT)).fetchall()
            self.drifts += [Drift(*row) for row in rows]  # type: ignore[arg-type]
            self.looks += 1
            await asyncio.sleep(SECONDS)
