"""What the schemas of one database share in a process: connections, heartbeats and the listener."""

import asyncio

from pgqueue.app import App
from pgqueue.db.link import Link
from pgqueue.db.shared_link import LinkPool, SharedLink
from pgqueue.process.duty import Duty, hide
from pgqueue.process.heart import Hearts
from pgqueue.worker.fleet.listener import SharedListener

SHORT = 6  # connections for statements that take milliseconds
OF_ONE = 3  # of these, at most, for one schema: two schemas in which statements wait for locks leave some to the others
LONG = ("prune", "full scan")  # links that may be in use for minutes: each has one connection, for one schema at a time


class Server:
    """The connections of a process to one database: at most eight for statements, two for heartbeats, one to listen."""

    def __init__(self, app: App, lease_seconds: float) -> None:
        database = app.database
        self._database = database
        self._pools = {name: LinkPool(database, f"pgqueue worker {name}", 1) for name in LONG}
        self._short = LinkPool(database, "pgqueue worker", SHORT)
        self.hearts = Hearts(database, lease_seconds)
        self.listener: SharedListener | None = None
        self._listening: asyncio.Task[None] | None = None
        if app.listen_database is not None:
            self.listener = SharedListener(Link(app.listen_database, "pgqueue worker listen"))

    def start(self) -> None:
        """Begin to listen."""
        if self.listener is not None:
            self._listening = hide(asyncio.create_task(self.listener.run(), name="listen"))

    def link(self, name: str, turns: asyncio.Semaphore) -> Link:
        """Return a link of one schema; `turns` are those of the schema."""
        if (pool := self._pools.get(name)) is not None:
            return SharedLink(pool, asyncio.Semaphore(1), self._database, name)
        return SharedLink(self._short, turns, self._database, name)

    async def close(self) -> None:
        """Close all connections."""
        if self.listener is not None and self._listening is not None:
            await _stopped(self.listener, self._listening)
        for pool in (self._short, *self._pools.values()):
            await pool.close()
        await asyncio.to_thread(self.hearts.close)


async def _stopped(duty: Duty, running: asyncio.Task[None]) -> None:
    duty.stop()
    duty.link.sever()
    await asyncio.wait([running], timeout=2.0)
    running.cancel()
    await duty.link.close()
