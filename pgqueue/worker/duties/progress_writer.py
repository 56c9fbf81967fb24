"""The duty that writes how far jobs are: the newest `ctx.progress()` of each, twice a second at most."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from psycopg.errors import LockNotAvailable

from pgqueue.db.connection import run_async
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
        self._locked: set[int] = set()

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
        written, self._locked = await self._write(notes)
        for job, text in notes:
            if self._notes.get(job.id) != (job, text) or job.id in self._locked:
                continue  # a newer note came, the job has ended, or its note has to wait
            del self._notes[job.id]
            if job.id not in written:
                log.warning("job %d: lease %d is lost, its progress was not written", job.id, job.lease)
                self._emit(StaleWrite(*job.event_fields))
        await asyncio.sleep(EVERY)
        return 0.0

    async def _write(self, notes: list[tuple[ClaimedJob, str]]) -> tuple[set[int], set[int]]:
        """Write notes; return the ids of the jobs that are still this worker's, and of those that a caller's open
        transaction has locked: their notes wait, and hold up no other."""
        jobs = self._queries.jobs
        if not self._locked:
            with suppress(LockNotAvailable):
                return await self.link.run(jobs.note_progress(notes)), set()
        async with self.link.connection() as conn, conn.transaction():
            locked = await run_async(conn, jobs.lock_unlocked([job.id for job, _ in notes]))
            free = [note for note in notes if note[0].id not in locked]
            return (await run_async(conn, jobs.note_progress(free)) if free else set()), locked

    def _note(self, job: ClaimedJob, text: str) -> None:
        self._notes[job.id] = (job, text)
        self.wake()
