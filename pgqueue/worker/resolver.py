"""Writing outcomes: in batches that form while the previous one is being written."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import psycopg

from pgqueue.events import (
    Event,
    JobCancelled,
    JobDied,
    JobReleased,
    JobRetried,
    JobSnoozed,
    JobSucceeded,
    StaleWrite,
)
from pgqueue.job import ClaimedJob
from pgqueue.lifecycle import Resolution
from pgqueue.link import Link
from pgqueue.outcome import ErrorInfo
from pgqueue.queries import Queries
from pgqueue.service import Service

log = logging.getLogger("pgqueue.worker")
BATCH = 512
Entry = tuple[ClaimedJob, Resolution]
# Postgres refuses the data itself; everything else is worth trying again as it is.
_REFUSED = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)


class Resolver(Service):
    """Keeps outcomes until they are written, through lost connections too; each write is fenced by the lease."""

    name = "resolve"

    def __init__(
        self, link: Link, queries: Queries, on_delay: Callable[[float], None], emit: Callable[[Event], None]
    ) -> None:
        super().__init__(link)
        self._queries = queries
        self._on_delay = on_delay
        self._emit = emit
        self._waiting: deque[Entry] = deque()
        self._drained = asyncio.Event()
        self._drained.set()

    def add(self, job: ClaimedJob, resolution: Resolution) -> None:
        """Write a resolution with the next batch."""
        self._waiting.append((job, resolution))
        self._drained.clear()
        self.wake()

    def held(self) -> list[int]:
        """The jobs whose outcome is not written yet."""
        return [job.id for job, _ in self._waiting]

    async def tick(self) -> float:
        """Write what has come in since the last batch."""
        batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
        if batch:
            await self._write(batch)
            for _ in batch:
                self._waiting.popleft()
        if self._waiting:
            return 0.0
        self._drained.set()
        return 3600.0

    async def drained(self) -> None:
        """Wait until every outcome is written."""
        await self._drained.wait()

    async def _write(self, batch: list[Entry]) -> None:
        """Write a batch. One that Postgres refuses for its data is split, so that a bad row holds up no other."""
        try:
            moved = await self.link.run(self._queries.resolve(batch))
        except _REFUSED as error:
            if len(batch) == 1:
                await self._write_refused(batch[0], error)
            else:
                await self._write(batch[: len(batch) // 2])
                await self._write(batch[len(batch) // 2 :])
            return
        for job, resolution in batch:
            if job.id not in moved:
                log.warning("job %d: lease %d is lost, its outcome was not written", job.id, job.lease)
                self._emit(StaleWrite(*job.about))
                continue
            self._emit(_event(job, resolution))
            if resolution.target == "pending":
                self._on_delay(resolution.delay)

    async def _write_refused(self, entry: Entry, error: psycopg.Error) -> None:
        job, resolution = entry
        if resolution.error is not None and resolution.error.type == "pgqueue.OutcomeRefused":
            log.error("job %d: Postgres refuses even a plain outcome: %s", job.id, type(error).__name__)
            return
        log.error("job %d: Postgres refuses its result or error (%s)", job.id, type(error).__name__)
        told = ErrorInfo("pgqueue.OutcomeRefused", f"the result or error could not be stored: {type(error).__name__}")
        await self._write([(job, replace(resolution, result=None, error=told, reason=None))])


def _event(job: ClaimedJob, resolution: Resolution) -> Event:
    about = job.about
    match resolution.verb:
        case "succeed":
            return JobSucceeded(*about)
        case "retry":
            return JobRetried(*about, resolution.delay, resolution.error)
        case "bury":
            return JobDied(*about, resolution.reason, resolution.error)
        case "snooze":
            return JobSnoozed(*about, resolution.delay)
        case "withdraw":
            return JobCancelled(*about, resolution.reason)
        case _:
            return JobReleased(*about, resolution.reason)
