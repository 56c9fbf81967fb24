"""The duty that notifies callers who wait for a job that it has ended. The NOTIFY is a hint; they poll all the same."""

from collections.abc import Iterable
from contextlib import suppress

from pgqueue.db.failures import DATABASE_ERRORS
from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries
from pgqueue.timing import monotonic

WAITERS_SECONDS = 60.0  # for which a worker remembers that callers wait; they say so again every 20 seconds
CHECK_SECONDS = 30.0  # between two checks whether callers wait
UNNOTIFIED_CHECK_SECONDS = 5.0  # the same, in a worker that cannot listen


class Announcer(Duty):
    """Notifies for the jobs that a caller waits for. Costs nothing while no caller waits.

    The resolver writes each outcome first. The announcement is a statement of its own afterwards, and is sent only
    while the worker knows that any caller waits, from a notification or from a periodic check.
    """

    name = "announce"

    def __init__(self, link: Link, queries: Queries, *, listens: bool) -> None:
        super().__init__(link)
        self._queries = queries
        self._check_seconds = CHECK_SECONDS if listens else UNNOTIFIED_CHECK_SECONDS
        self._waiters_until = 0.0
        self._check_at = 0.0
        self._moved: set[int] = set()

    def job_awaited(self) -> None:
        """Announce from now on, and check for callers whose job ended before we knew of them."""
        if monotonic() > self._waiters_until:
            self.check()
        self._waiters_until = monotonic() + WAITERS_SECONDS

    def check(self) -> None:
        """Check now whether callers wait."""
        self._check_at = 0.0
        self.wake()

    def jobs_moved(self, jobs: Iterable[int]) -> None:
        """Announce those of these jobs that a caller waits for and that have ended. The move must be committed."""
        if monotonic() < self._waiters_until:
            self._moved.update(jobs)
            self.wake()

    async def run(self) -> None:
        """Make step after step until stopped. Then announce the ends that were written last: no other worker would."""
        await super().run()
        if self._moved:
            with suppress(*DATABASE_ERRORS):
                await self.link.run(self._queries.waits.announce_ended(self._moved))

    async def step(self) -> float:
        """Announce. An announcement that fails is not repeated: the callers poll."""
        moved, self._moved = self._moved, set()
        if moved:
            await self.link.run(self._queries.waits.announce_ended(moved))
        if monotonic() >= self._check_at:
            self._check_at = monotonic() + self._check_seconds
            if await self.link.run(self._queries.waits.announce_missed()):
                self._waiters_until = monotonic() + WAITERS_SECONDS
        return 0.0 if self._moved else max(self._check_at - monotonic(), 0.0)
