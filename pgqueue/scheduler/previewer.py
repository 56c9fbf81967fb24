"""The duty that keeps previews for SQL: the next ticks of each schedule, computed apart from firing."""

from collections.abc import Sequence
from itertools import islice

from pgqueue import db
from pgqueue.app import App
from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries.schedules.preview import KEPT
from pgqueue.queries.schedules.stored import FoundSchedule, UnreadableSchedule
from pgqueue.schedules.in_words import Upcoming, moment_in_words
from pgqueue.schedules.plan import ticks_after

BATCH = 20  # schedules in one step: no tick waits for more than some milliseconds of it
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
                found = await db.run_async(conn, queries.schedules.read(names))
                await db.run_async(
                    conn, queries.schedules.save_previews({one.name: _upcoming(one) for one in found}, now)
                )
        return GAP if len(names) == BATCH else PAUSE


def _upcoming(one: FoundSchedule) -> Sequence[Upcoming] | None:
    if isinstance(one, UnreadableSchedule):
        return None
    schedule = one.schedule
    try:
        ticks = list(islice(ticks_after(schedule, one.state.now), KEPT))
    except Exception:  # noqa: BLE001 - a plan may fail in any way; the ticker reports it
        return None
    return [Upcoming(tick, moment_in_words(tick, schedule.plan.timezone)) for tick in ticks]
