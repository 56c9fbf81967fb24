"""Previews for SQL: the duty that works out the next ticks of schedules, apart from firing."""

from collections.abc import Sequence
from itertools import islice

from pgqueue import db
from pgqueue.app import App
from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries.schedules.preview import KEPT
from pgqueue.queries.schedules.stored import FoundSchedule, UnreadableSchedule
from pgqueue.schedules.in_words import Upcoming, moment_in_words
from pgqueue.schedules.plan import each_after

AT_MOST = 20  # schedules at a time: no tick waits for more than some milliseconds of this
GAP = 0.1  # seconds between two such parts, so that many new plans slow no firing down
PAUSE = 5.0  # seconds when all is done


class Previewer(Duty):
    """Keeps the next ticks of each schedule, and how people say them, where SQL can read them."""

    name = "previews"

    def __init__(self, app: App, link: Link) -> None:
        super().__init__(link)
        self._queries = app.queries

    async def step(self) -> float:
        """Work out some that have become stale."""
        queries = self._queries
        async with self.link.connection() as conn, conn.transaction():
            names = await db.run_async(conn, queries.schedules.lock_stale_previews(AT_MOST))
            if names:
                now = await db.run_async(conn, queries.schedules.clock())
                found = await db.run_async(conn, queries.schedules.read(names))
                await db.run_async(
                    conn, queries.schedules.save_previews({one.name: _upcoming(one) for one in found}, now)
                )
        return GAP if len(names) == AT_MOST else PAUSE


def _upcoming(one: FoundSchedule) -> Sequence[Upcoming] | None:
    if isinstance(one, UnreadableSchedule):
        return None
    schedule = one.schedule
    try:
        ticks = list(islice(each_after(schedule, one.state.now), KEPT))
    except Exception:  # noqa: BLE001 - whatever a plan leads to; who fires it says so
        return None
    return [Upcoming(tick, moment_in_words(tick, schedule.plan.timezone)) for tick in ticks]
