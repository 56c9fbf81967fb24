"""The duty that writes how far jobs are: the newest `ctx.progress()` of each, twice a second at most."""

import asyncio
import logging
import threading
from collections.abc import Callable

from pgqueue.db.link import Link
from pgqueue.events import Event, StaleWrite
from pgqueue.jobs.job import ClaimedJob
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries

log = logging.getLogger("pgqueue.worker")
EVERY = 0.5  # seconds between two writes, however often tasks report


class ProgressWriter(Duty):
    """Writes how far jobs are, fenced by their leases, in one statement for all of them."""

    name = "progress"

    def __init__(self, link: Link, queries: Queries, emit: Callable[[Event], None]) -> None:
        super().__init__(link)
        self._queries = queries
        self._emit = emit
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._notes: dict[int, tuple[ClaimedJob, str]] = {}

    def note(self, job: ClaimedJob, text: str) -> None:
        """Write a JSON object about a job, unless a newer one comes first. May be called in any thread."""
        if threading.get_ident() == self._thread:
            self._note(job, text)
        else:
            self._loop.call_soon_threadsafe(self._note, job, text)

    def forget(self, job: ClaimedJob) -> None:
        """Write nothing more about a job: it has ended here."""
        self._notes.pop(job.id, None)

    async def step(self) -> float:
        """Write the notes that came since the last step."""
        notes = list(self._notes.values())
        if not notes:
            return 3600.0
        written = await self.link.run(self._queries.jobs.note_progress(notes))
        for job, text in notes:
            if self._notes.get(job.id) != (job, text):
                continue  # a newer note came, or the job has ended
            del self._notes[job.id]
            if job.id not in written:
                log.warning("job %d: lease %d is lost, its progress was not written", job.id, job.lease)
                self._emit(StaleWrite(*job.event_fields))
        await asyncio.sleep(EVERY)
        return 0.0

    def _note(self, job: ClaimedJob, text: str) -> None:
        self._notes[job.id] = (job, text)
        self.wake()
