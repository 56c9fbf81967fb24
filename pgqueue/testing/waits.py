"""Waiting for a job in a test: one look, for nothing goes on while the test stands still."""

from collections.abc import Callable, Iterable

from pgqueue.client.wait_hub import Waiter
from pgqueue.client.waiting import JobWatcher, Waits
from pgqueue.errors import WaitTimeout
from pgqueue.jobs.job import Job


class LentWaits(Waits):
    """Tells at once how a job stands in the test's transaction, which no other connection can see into.

    Who waits for a job that has not ended gets WaitTimeout, whatever its timeout.
    """

    def __init__(self, look: Callable[[int], Job | None]) -> None:
        self._look = look

    def add(self, waiters: Iterable[Waiter]) -> JobWatcher:
        """Tell waiters how their jobs are."""
        for waiter in waiters:
            self._tell(waiter, self._look(waiter.job_id))
        return self

    def drop(self, waiter: Waiter) -> None:
        """Nobody waits."""

    def last_seen(self, job_id: int) -> str:
        """Nobody waits."""
        return ""

    def close(self) -> None:
        """There is no connection."""

    def _tell(self, waiter: Waiter, job: Job | None) -> None:
        if job.state.is_terminal if job else waiter.committed:
            waiter.ended(job)
        else:
            stands = f"is {job.phase}" if job else "is not there"
            waiter.failed(
                WaitTimeout(f"job {waiter.job_id} {stands}: in a test jobs run in drain(), run() and inline() alone")
            )
