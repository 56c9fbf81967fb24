"""Releases of code that declares schedules, and schedulers whose heartbeats the test decides."""

import asyncio

from pgqueue import App, db
from pgqueue.db.link import Link
from pgqueue.scheduler import Declarer
from pgqueue.scheduler.declarer import declare


def declared(app: App, dsn: str) -> None:
    """Do what a scheduler does when it starts."""

    async def once() -> None:
        link = Link(db.Database(dsn), "pgqueue scheduler")
        await declare(app, link)
        await link.close()

    asyncio.run(once())


def release(dsn: str, *names: str, plan: str = "@daily", app: str = "shop:app") -> App:
    """An app as one release of the code declares it."""
    one = App(dsn, name=app)
    for name in names:
        one.schedules.declare(name, "report", plan)
    return one


class Living:
    """Declarers of several releases, each beating when the test says so."""

    def __init__(self, dsn: str) -> None:
        self._link = Link(db.Database(dsn), "pgqueue scheduler")

    def start(self, app: App) -> Declarer:
        return Declarer(app, self._link)

    async def close(self) -> None:
        await self._link.close()


async def states(app: App) -> dict[str, str]:
    return {one.name: one.state for one in await app.schedules.alist()}
