"""Previews: the next ticks of schedules, stored for callers that have only SQL."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import LiteralString

from pgqueue.queries.base import Query, Statements, nothing
from pgqueue.schedules.in_words import Upcoming

KEPT = 20  # ticks of each schedule; when half of them have passed, a scheduler computes them again
AGAIN = timedelta(seconds=60)  # after which a plan that cannot be used here is tried again

# Lock stale previews for this transaction, which computes them again. SKIP LOCKED: each goes to one scheduler. A
# statement that follows reads the plan: if it were joined to this one, it could be older than the change that made the
# preview stale, where that committed while this statement ran. A transaction that changes the plan now waits for this
# one, and makes the preview stale again. Reads schedule_ahead_stale_at in its order, up to now.
LOCK_STALE_PREVIEWS: LiteralString = """
select name from {s}.schedule_ahead where stale_at > '-infinity' and stale_at <= (select clock_timestamp())
order by stale_at limit %(at_most)s for update skip locked"""

# Store the ticks that were computed, in previews that are locked. By primary key.
SAVE_PREVIEWS: LiteralString = """
update {s}.schedule_ahead a set ticks = g.ticks, words = g.words, stale_at = g.stale_at
from jsonb_to_recordset(%(rows)s::jsonb) as g(name text, ticks timestamptz[], words text[], stale_at timestamptz)
where a.name = g.name"""


class PreviewQueries(Statements):
    """Previews of schedules."""

    def lock_stale_previews(self, at_most: int) -> Query[list[str]]:
        """Lock up to `at_most` stale previews; returns the names of their schedules."""
        return Query(self._sql(LOCK_STALE_PREVIEWS), lambda rows: [row[0] for row in rows], {"at_most": at_most})

    def save_previews(self, found: Mapping[str, Sequence[Upcoming] | None], now: datetime) -> Query[None]:
        """Store the next KEPT ticks of schedules, or all where there are fewer; None for a plan that cannot be used."""
        rows = [{"name": name, **_preview(ticks, now)} for name, ticks in found.items()]
        return Query(self._sql(SAVE_PREVIEWS), nothing, {"rows": json.dumps(rows)})


def _preview(found: Sequence[Upcoming] | None, now: datetime) -> dict[str, object]:
    if found is None:
        return {"stale_at": (now + AGAIN).isoformat()}
    ticks = [one.tick.isoformat() for one in found]
    stale_at = ticks[KEPT // 2 - 1] if len(ticks) == KEPT else None
    return {"ticks": ticks, "words": [one.words for one in found], "stale_at": stale_at}
