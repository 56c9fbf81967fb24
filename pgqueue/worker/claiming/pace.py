"""How fast jobs come and end at a worker: how many to claim ahead, and whether to poll rather than to be notified."""

from collections.abc import Callable

from pgqueue.timing import monotonic

MAX_CLAIM = 4000  # jobs in one claim, and claimed ahead of slots
# Non-empty claims per second. Above BUSY_RATE we poll and ask for no NOTIFY, which holds up other commits; below
# QUIET_RATE we ask again.
BUSY_RATE, QUIET_RATE = 60, 20
RATE_SECONDS = 0.2  # over which that rate is measured
AHEAD_SECONDS = 0.05  # jobs that will begin within this time are claimed ahead of slots
MANY = 10_000  # jobs that end in a second, from which on it is twice that time: to claim many takes longer
PACE_SECONDS = 0.02  # over which the pace of jobs is measured for that
PACE_KEPT = 0.9  # of the pace before, where the new one is lower: slots that were empty for a moment say little


class ClaimRate:
    """How often claims bring jobs. `is_high`: often enough to poll, since a NOTIFY holds up other commits."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self.is_high = False
        self._since, self._claims = now(), 0

    def note(self, claimed: int) -> None:
        """Note how many jobs a claim has brought."""
        self._claims += claimed > 0
        if (elapsed := self._now() - self._since) >= RATE_SECONDS:
            self.is_high = self._claims / elapsed > (QUIET_RATE if self.is_high else BUSY_RATE)
            self._since, self._claims = self._now(), 0


class Pace:
    """How many jobs end in a second at this worker, of late."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._pace = 0.0
        self._since, self._ended = now(), 0

    def ahead(self, ended: int, *, before: int) -> int:
        """Return how many jobs to claim ahead of slots: what will begin within 50 to 100 ms, none where jobs are slow.

        `ended`: how many have ended since the worker began; `before`: the last answer. A pace by which nothing is
        claimed ahead is not kept: the jobs have just been released that it had brought.
        """
        now = self._now()
        elapsed = now - self._since
        if elapsed < PACE_SECONDS:
            return before
        kept = PACE_KEPT ** (elapsed / PACE_SECONDS) if before else 0.0
        self._pace = max((ended - self._ended) / elapsed, self._pace * kept)
        self._since, self._ended = now, ended
        return min(int(self._pace * AHEAD_SECONDS * (1 + min(self._pace / MANY, 1.0))), MAX_CLAIM)
