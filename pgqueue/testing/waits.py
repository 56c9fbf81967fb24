"""Waiting for a job in a test: one look, because no worker runs meanwhile."""

from collections.abc import Callable, Iterable

from pgqueue.client.waiting import JobWatcher, Waits
from pgqueue.client.watched import Waiter
from pgqueue.errors import WaitTimeout
from pgqueue.jobs.job import Job


class ImmediateWaits(Waits):
    """Ends every wait at once, by how the job stands in the test's transaction. No other connection could see it there.

    A wait for a job that has not ended raises WaitTimeout, whatever its timeout.
    """

    def __init__(self, look: Callable[[int], Job | None]) -> None:
        self._look = look

    def add(self, waiters: Iterable[Waiter]) -> JobWatcher:
        """Answer each waiter."""
        for waiter in waiters:
            self._answer(waiter, self._look(waiter.job_id))
        return self

    def drop(self, waiter: Waiter) -> None:
        """Do nothing: each waiter was answered when it was added."""

    def last_seen(self, job_id: int) -> str:
        """Return nothing: each waiter was answered when it was added."""
        return ""

    def close(self) -> None:
        """Close nothing: there is no connection."""

    def _answer(self, waiter: Waiter, job: Job | None) -> None:
        if job.state.is_terminal if job else waiter.committed:
            waiter.ended(job)
        else:
            stands = f"is {job.phase}" if job else "is not there"
            waiter.failed(
                WaitTimeout(f"job {waiter.job_id} {stands}: in a test jobs run in drain(), run() and inline() alone")
            )
