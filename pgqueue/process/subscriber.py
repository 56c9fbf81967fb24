"""The duty that declares subscriptions: those of the code become rows, and rows that left the code are disabled."""

import hashlib
import logging
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from pgqueue.db.failures import DATABASE_ERRORS
from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries
from pgqueue.queries.schedules.release import SILENCE
from pgqueue.tasks.subscription import Declared, renames

log = logging.getLogger("pgqueue")


class Subscriber(Duty):
    """Writes which release of an app runs here, and declares its subscriptions unless a newer release runs.

    As of schedules: while an old release and a new one run side by side, the new one's subscriptions count, and those
    that only the old one declares stay until its last process has ended. A process that declares none changes none, and
    where no process runs nothing changes. Apps without a name, of which there may be several, disable none.
    """

    name = "subscriptions"

    def __init__(self, link: Link, queries: Queries, app: str, declared: Sequence[Declared]) -> None:
        super().__init__(link)
        self._queries = queries.events
        self._app = app
        self._rows = {one.task: one.row for one in declared}
        self._renames = renames(declared)
        self._id = uuid.uuid4()
        self._since: datetime | None = None
        self._release = hashlib.sha256("\n".join(sorted(self._rows.values())).encode()).hexdigest()[:16]

    @classmethod
    def of(cls, link: Link, queries: Queries, app: str, declared: Sequence[Declared]) -> "list[Subscriber]":
        """Return the duty of a process; none where its app declares no subscription."""
        return [cls(link, queries, app, declared)] if declared else []

    async def step(self) -> float:
        """Write that this release runs; declare its subscriptions, and disable those that no release declares."""
        queries, app = self._queries, self._app
        names: Sequence[str] = list(self._rows)
        self._since = await self.link.run(queries.register_release(self._id, app, self._release, names, self._since))
        if not app:
            await self._declare()
        elif await self.link.run(queries.is_newest_release(self._id)):
            await self._declare()
            for task in await self.link.run(queries.disable_left(app)):
                log.warning("task %s gets no events any more: the code declares it no longer", task)
        return SILENCE / 4

    async def run(self) -> None:
        """Make step after step until stopped; then write that this process has ended."""
        try:
            await super().run()
        finally:
            with suppress(*DATABASE_ERRORS):
                await self.link.run(self._queries.unregister_release(self._id), deadline=2.0)

    async def _declare(self) -> None:
        if self._renames is not None:
            await self.link.run(self._queries.rename(self._renames))
        await self.link.run(self._queries.declare(self._app, list(self._rows.values())))
