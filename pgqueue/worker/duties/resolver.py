"""Writing outcomes: in batches that form while the previous one is being written."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from itertools import islice

from pgqueue.db.failures import blames_data
from pgqueue.db.link import Link
from pgqueue.error_info import ErrorInfo
from pgqueue.events import (
    Event,
    JobCancelled,
    JobDeadLettered,
    JobReleased,
    JobRetried,
    JobSnoozed,
    JobSucceeded,
    Listeners,
    StaleWrite,
)
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import SUCCEEDED, Resolution
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries
from pgqueue.tasks.registry import Tasks
from pgqueue.worker.duties.results import ResultTtls

log = logging.getLogger("pgqueue.worker")
BATCH = 512
BEHIND = 4 * BATCH
Entry = tuple[ClaimedJob, Resolution]
BATCH_BYTES = 32 * 1024 * 1024


class Resolver(Duty):
    """Keeps outcomes until they are written, through lost connections too; each write is fenced by the lease."""

    name = "resolve"

    def __init__(
        self,
        link: Link,
        queries: Queries,
        on_put_back: Callable[[ClaimedJob, float], None],
        on_written: Callable[[], None],
        listeners: Listeners,
        tasks: Tasks | None = None,
        on_moved: Callable[[set[int]], None] = lambda moved: None,
    ) -> None:
        super().__init__(link)
        self._expiry = ResultTtls(queries, tasks or Tasks())
        self._on_put_back = on_put_back
        self._on_written = on_written
        self._on_moved = on_moved
        self._listeners = listeners
        self._waiting: deque[Entry] = deque()
        self._drained = asyncio.Event()
        self._drained.set()

    def add(self, job: ClaimedJob, resolution: Resolution) -> None:
        """Write a resolution with the next batch."""
        self._waiting.append((job, resolution))
        if len(self._waiting) == 1:  # else it is at work, or will be
            self._drained.clear()
            self.wake()

    @property
    def behind(self) -> bool:
        """Whether so many outcomes wait that no more jobs should be begun: each would run again if the worker died."""
        return len(self._waiting) > BEHIND

    def held(self) -> list[int]:
        """The jobs whose outcome is not written yet."""
        return [job.id for job, _ in self._waiting]

    async def step(self) -> float:
        """Write what has come in since the last batch."""
        batch = self._next_batch()
        if batch:
            await self._write(batch)
            for _ in batch:
                self._waiting.popleft()
            self._on_written()
        if self._waiting:
            return 0.0
        self._drained.set()
        return 3600.0

    def _next_batch(self) -> list[Entry]:
        """The oldest outcomes of one identity, as many as one statement should carry."""
        batch: list[Entry] = []
        size = 0
        for entry in islice(self._waiting, BATCH):
            size += len(entry[1].result or "")
            if batch and (size > BATCH_BYTES or entry[0].worker_id is not batch[0][0].worker_id):
                break
            batch.append(entry)
        return batch

    async def drained(self) -> None:
        """Wait until every outcome is written."""
        await self._drained.wait()

    async def _write(self, batch: list[Entry]) -> None:
        """Write a batch. One that Postgres refuses for its data is split, so that a bad row holds up no other."""
        try:
            moved = await self._resolve(batch)
        except Exception as error:
            if not blames_data(error):
                raise
            if len(batch) == 1:
                await self._write_refused(batch[0], error)
            else:
                await self._write(batch[: len(batch) // 2])
                await self._write(batch[len(batch) // 2 :])
            return
        self._on_moved(moved)
        for job, resolution in batch:
            if job.id not in moved:
                log.warning("job %d: lease %d is lost, its outcome was not written", job.id, job.lease)
                self._listeners.emit(StaleWrite(*job.about))
                continue
            if self._listeners:
                self._listeners.emit(_event(job, resolution))
            if resolution is not SUCCEEDED and resolution.target == "pending":
                self._on_put_back(job, resolution.delay)

    async def _resolve(self, batch: list[Entry]) -> set[int]:
        """Write a batch; ask again for what should have gone on and did not move: a cancellation may have come between.

        The second time finds the job cancelled, and ends it, or the lease is indeed lost.
        """
        moved = await self._expiry.resolve(self.link, batch)
        left = [entry for entry in batch if entry[0].id not in moved and not entry[1].target.is_terminal]
        if left:
            moved |= await self._expiry.resolve(self.link, left)
        return moved

    async def _write_refused(self, entry: Entry, error: Exception) -> None:
        job, resolution = entry
        if resolution.error is not None and resolution.error.type == "pgqueue.OutcomeRefused":
            log.error("job %d: Postgres refuses even a plain outcome: %s", job.id, type(error).__name__)
            return
        log.error("job %d: Postgres refuses its result or error (%s)", job.id, type(error).__name__)
        told = ErrorInfo("pgqueue.OutcomeRefused", f"the result or error could not be stored: {type(error).__name__}")
        plain = Resolution(resolution.verb, resolution.verb, 0.0, resolution.refund, None, told)
        await self._write([(job, plain)])


def _event(job: ClaimedJob, resolution: Resolution) -> Event:
    about = job.about
    match resolution.verb:
        case "succeed":
            return JobSucceeded(*about)
        case "retry":
            return JobRetried(*about, resolution.delay, resolution.error)
        case "dead_letter":
            return JobDeadLettered(*about, resolution.reason, resolution.error)
        case "snooze":
            return JobSnoozed(*about, resolution.delay)
        case "withdraw":
            return JobCancelled(*about, resolution.reason)
        case _:
            return JobReleased(*about, resolution.reason)
