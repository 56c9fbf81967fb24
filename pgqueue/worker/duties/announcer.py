"""Telling those who wait for a job that it has ended: a hint that makes it fast. Polling is the truth."""

from collections.abc import Iterable

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries
from pgqueue.timing import monotonic

WANTED_SECONDS = 60.0  # for how long it is remembered that somebody waits; waiters say it every 20 seconds
LOOK_SECONDS, DEAF_LOOK_SECONDS = 30.0, 5.0  # between two looks whether somebody waits; if the worker cannot listen


class Announcer(Duty):
    """Notifies for the jobs that somebody waits for, and costs nothing while nobody does.

    Each outcome is written first and told afterwards, in a statement of its own, which is sent only while it is known
    that somebody waits at all. That is known from a notification, and from a look now and then.
    """

    name = "announce"

    def __init__(self, link: Link, queries: Queries, *, listens: bool) -> None:
        super().__init__(link)
        self._queries = queries
        self._every = LOOK_SECONDS if listens else DEAF_LOOK_SECONDS
        self._wanted_until = 0.0
        self._look_at = 0.0
        self._ended: set[int] = set()

    def somebody_waits(self) -> None:
        """Tell from now on; and of what ended before this was known."""
        if monotonic() > self._wanted_until:
            self.look()
        self._wanted_until = monotonic() + WANTED_SECONDS

    def look(self) -> None:
        """Look whether somebody waits: nobody has listened until now."""
        self._look_at = 0.0
        self.wake()

    def ended(self, jobs: Iterable[int]) -> None:
        """Tell that these jobs have moved, if somebody waits for one and it has ended. That must be committed."""
        if monotonic() < self._wanted_until:
            self._ended.update(jobs)
            self.wake()

    async def step(self) -> float:
        """Tell what is to be told. What cannot be told now is not told later: who waits looks for himself."""
        ended, self._ended = self._ended, set()
        if ended:
            await self.link.run(self._queries.waits.announce_ended(ended))
        if monotonic() >= self._look_at:
            self._look_at = monotonic() + self._every
            if await self.link.run(self._queries.waits.announce_missed()):
                self._wanted_until = monotonic() + WANTED_SECONDS
        return 0.0 if self._ended else max(self._look_at - monotonic(), 0.0)
