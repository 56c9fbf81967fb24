"""The duty that keeps previews for SQL: the next ticks of each schedule, computed apart from firing."""

from collections.abc import Sequence
from itertools import islice

from pgqueue import db
from pgqueue.app import App
from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries import Query
from pgqueue.queries.base import Row
from pgqueue.queries.schedules.preview import KEPT
from pgqueue.queries.schedules.stored import UnreadableSchedule, read_schedule
from pgqueue.scheduler.computing import compute_each
from pgqueue.schedules.in_words import Upcoming, moment_in_words
from pgqueue.schedules.plan import ticks_after

BATCH = 20  # schedules in one step: no tick waits for more than some milliseconds of it
SECONDS = 2.0  # for one schedule
GAP = 0.1  # seconds between two full batches, so that many new plans do not slow down firing
PAUSE = 5.0  # seconds when no schedule is left


class Previewer(Duty):
    """Writes the next ticks of each schedule, and the same in words, where SQL can read them."""

    name = "previews"

    def __init__(self, app: App, link: Link) -> None:
        super().__init__(link)
        self._queries = app.queries

    async def step(self) -> float:
        """Compute a batch of previews that have become stale."""
        queries = self._queries
        async with self.link.connection() as conn, conn.transaction():
            names = await db.run_async(conn, queries.schedules.lock_stale_previews(BATCH))
            if names:
                now = await db.run_async(conn, queries.schedules.clock())
                query = queries.schedules.read(names)
                rows = await db.run_async(conn, Query(query.sql, list, query.params))
                found = await compute_each(_upcoming, rows, SECONDS)
                previews = {
                    row[0]: None if isinstance(ticks, Exception) else ticks
                    for row, ticks in zip(rows, found, strict=True)
                }
                await db.run_async(conn, queries.schedules.save_previews(previews, now))
        return GAP if len(names) == BATCH else PAUSE


def _upcoming(row: Row) -> Sequence[Upcoming] | None:
    one = read_schedule(row)
    if isinstance(one, UnreadableSchedule):
        return None  # the ticker reports it
    ticks = islice(ticks_after(one.schedule, one.state.now), KEPT)
    return [Upcoming(tick, moment_in_words(tick, one.schedule.plan.timezone)) for tick in ticks]
