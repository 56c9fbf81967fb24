"""The duty that prunes: what has ended and is older than retention keeps it goes."""

import logging
import random
from typing import TYPE_CHECKING, Any

from pgqueue.client.pruning import Pruned, prune, shortened
from pgqueue.client.steps import follow_async
from pgqueue.db.link import Link
from pgqueue.jobs.retention import RetentionRule
from pgqueue.process.duty import Duty
from pgqueue.worker.core import WorkerCore

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger("pgqueue.worker")
# Seconds: until the first time, between two, while a lock is not to be had, and between two of all workers together.
FIRST, INTERVAL, AGAIN, TURN = 15.0, 60.0, 25.0, 20.0


class Pruner(Duty):
    """Declares the retention of the app, and prunes every minute. One worker at a time has the turn.

    It works on a connection of its own, which it closes after each time: what it does may take minutes. Each batch is
    a transaction of its own, so it may be cut off anywhere.
    """

    name = "prune"
    interruptible = True

    def __init__(self, link: Link, chores: Link, core: WorkerCore) -> None:
        super().__init__(link, chores)
        self._chores = chores
        self._app = core.app
        self._queries = core.queries
        self._declared: list[RetentionRule] | None = None

    async def step(self) -> float:
        """Prune what is old, if no other worker has done so within the last seconds."""
        if self._declared is None:
            await self._declare(self._app.retention_rules)
            return FIRST * random.uniform(0.5, 1.0)  # noqa: S311
        done = True
        if await self._chores.run(self._queries.retention.take_turn(TURN)):
            try:
                async with self.link.connection(None) as conn:
                    await self._count(conn)
                    done = await follow_async(conn, prune(self._queries, _log, self._goes_on))
            finally:
                await self.link.close()
        return (INTERVAL if done else AGAIN) * random.uniform(0.8, 1.0)  # noqa: S311

    async def _count(self, conn: "psycopg.AsyncConnection[Any]") -> None:
        """Declare the rules that count jobs anew, where so many have ended by now that their ages change."""
        rules = await follow_async(conn, shortened(self._queries, self._app.retention_rules))
        if rules != self._declared:
            await self._declare(rules)

    async def _declare(self, rules: list[RetentionRule]) -> None:
        if rules or self._app.name:
            await self._chores.run(self._queries.retention.declare(self._app.name, rules))
        self._declared = rules

    def _goes_on(self) -> bool:
        return not self._stopping.is_set()


def _log(pruned: Pruned) -> None:
    about = "about " if pruned.estimated else ""
    log.info("retention: %s %s, %s%d rows", pruned.name, pruned.how, about, pruned.rows)
