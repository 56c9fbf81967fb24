"""The duty that writes outcomes, in batches that form while the previous one is being written."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from itertools import islice

from psycopg.errors import LockNotAvailable

from pgqueue.app import App
from pgqueue.db.connection import run_async
from pgqueue.db.failures import blames_data, brief
from pgqueue.db.link import Link
from pgqueue.error_info import ErrorInfo
from pgqueue.events import (
    Event,
    JobCancelled,
    JobDeadLettered,
    JobReleased,
    JobReplaced,
    JobRetried,
    JobSnoozed,
    JobSucceeded,
    StaleWrite,
)
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.process.duty import Duty
from pgqueue.queries.jobs.resolve import is_counted
from pgqueue.queries.jobs.ties import TiedEnds
from pgqueue.timing import monotonic
from pgqueue.worker.duties.outcome_writer import OutcomeWriter
from pgqueue.worker.signals import WorkerSignals

log = logging.getLogger("pgqueue.worker")
BATCH = 512  # outcomes in one statement
BATCH_BYTES = 32 * 1024 * 1024  # of results in one statement
BEHIND = 4 * BATCH  # outcomes that wait: from there on no job begins
LOCKED_SECONDS = 1.0  # between two tries of an outcome whose row somebody else has locked
Entry = tuple[ClaimedJob, Resolution]


class Resolver(Duty):
    """Keeps outcomes until they are written, also while the database is away. The lease fences each write.

    An outcome whose row stays locked, by a caller's open transaction, is set aside, and the others are written.
    """

    name = "resolve"

    def __init__(self, link: Link, app: App, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._outcomes = OutcomeWriter(app, self._told)
        self._listeners = app.listeners
        self._signals = signals
        self._queries = app.queries.jobs
        self._locked: dict[tuple[int, int], Entry] = {}  # set aside, by id and lease
        self._refused: set[int] = set()  # jobs that cannot be recorded
        self._locked_next = 0.0  # when to try them again, by the monotonic clock
        self._waiting: deque[Entry] = deque()
        self._drained = asyncio.Event()
        self._drained.set()

    def add(self, job: ClaimedJob, resolution: Resolution) -> None:
        """Write a resolution with the next batch."""
        self._waiting.append((job, resolution))
        if len(self._waiting) == 1:  # otherwise a step is running, or due
            self._drained.clear()
            self.wake()

    @property
    def behind(self) -> bool:
        """Whether so many outcomes wait that no more jobs should begin: each would run again if the worker died."""
        return len(self._waiting) + len(self._locked) > BEHIND

    def held_jobs(self) -> list[int]:
        """The jobs whose outcome is not written yet, or cannot be."""
        return [*(job.id for job, _ in (*self._waiting, *self._locked.values())), *self._refused]

    async def step(self) -> float:
        """Write the outcomes that came in while the last batch was written, up to a batch of them."""
        batch = self._next_batch()
        if batch:
            began = monotonic()
            await self._write(batch)
            self._signals.resolve_took(monotonic() - began)
            for _ in batch:
                self._waiting.popleft()
            self._signals.outcomes_written()
        if self._locked and monotonic() >= self._locked_next:
            await self._retry_locked()
        if self._waiting:
            return 0.0
        if self._locked:
            return max(self._locked_next - monotonic(), 0.001)
        self._drained.set()
        return 3600.0

    def _told(self, ends: TiedEnds) -> None:
        """Let claims look for the jobs that became due, and the duty of workflows for what it has to do."""
        if ends.ready:
            self._signals.job_committed()
        if ends.doomed or ends.unsettled or ends.late:
            self._signals.workflow_moved()
        if ends.called:
            self._signals.signal_sent()

    async def _retry_locked(self) -> None:
        """Write the outcomes that were set aside, as far as their rows are no longer locked."""
        self._locked_next = monotonic() + LOCKED_SECONDS
        worker = next(iter(self._locked.values()))[0].worker_id
        tried = {key: e for key, e in islice(self._locked.items(), BATCH) if e[0].worker_id == worker}
        for key in tried:
            self._locked[key] = self._locked.pop(key)  # to the end: the others have their turn
        batch, moved = list(tried.values()), set[int]()
        try:
            for part in self._outcomes.parts(batch):
                moved |= await self._resolve_unlocked(part)
            await self._resolve_late(batch, moved)
        except Exception as error:
            left = {key: entry for key, entry in tried.items() if entry[0].id not in moved}
            self._locked |= left  # also those whose rows are free by now
            self._report([entry for entry in batch if entry[0].id in moved], moved)
            if not blames_data(error, self._backoff.failures):
                raise
            for key in left:  # `_write` finds the one that is refused, and writes the others
                self._waiting.append(self._locked.pop(key))
            return
        self._report(batch, moved)
        self._signals.outcomes_written()

    def _next_batch(self) -> list[Entry]:
        """Return the oldest outcomes of jobs claimed under one worker id, as many as one statement should carry."""
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
        """Write a batch. If Postgres refuses it for its data it is split, so that a bad row holds up no other."""
        try:
            moved = await self._resolve(batch)
        except Exception as error:
            if not blames_data(error, self._backoff.failures):
                raise
            if len(batch) == 1:
                await self._write_refused(batch[0], error)
            else:
                await self._write(batch[: len(batch) // 2])
                await self._write(batch[len(batch) // 2 :])
            return
        self._report(batch, moved)

    def _report(self, batch: list[Entry], moved: set[int]) -> None:
        self._signals.jobs_moved(moved)
        written = batch if len(moved) == len(batch) else [entry for entry in batch if entry[0].id in moved]
        self._signals.attempts_ended(written)
        if metered := [job for job, _ in batch if job.lane is not None]:
            self._signals.turns_ended(metered)
        for job, resolution in batch:
            if (job.id, job.lease) in self._locked:
                continue
            if job.id not in moved:
                log.warning(
                    "job %d: lease %d is lost, its outcome was not written", job.id, job.lease, extra=job.log_facts
                )
                self._signals.write_was_stale()
                self._listeners.emit(StaleWrite(*job.event_fields))
                continue
            if self._listeners:
                self._listeners.emit(_event(job, resolution))
            if resolution is not PLAIN_SUCCESS and resolution.target == "pending":
                at_once = job.id in self._outcomes.signalled
                self._outcomes.signalled.discard(job.id)
                self._signals.job_put_back(job, 0.0 if at_once else resolution.delay)

    async def _resolve(self, batch: Sequence[Entry]) -> set[int]:
        """Write a batch, each part by a statement of its own; return the ids that moved.

        Once more those jobs of it that should have gone on and did not move: a cancellation may have been requested
        meanwhile. The second statement sees it and ends the job; if it moves nothing either, the lease is lost.
        """
        moved: set[int] = set()
        for part in self._outcomes.parts(batch):
            try:
                moved |= await self._outcomes.write(self.link, part)
                left = [entry for entry in part if entry[0].id not in moved and not entry[1].target.is_terminal]
                if left:
                    moved |= await self._outcomes.write(self.link, left)
            except LockNotAvailable:
                moved |= await self._resolve_unlocked(part)
        await self._resolve_late(batch, moved)
        return moved

    async def _resolve_late(self, batch: Sequence[Entry], moved: set[int]) -> None:
        """Write once more the plain jobs and the counted ones that did not move: they may have got ties while they ran.
        Seldom: the lease of the others is lost. Adds those that move to `moved`."""
        late = [
            entry
            for entry in batch
            if entry[0].id not in moved
            and (entry[0].ties is None or is_counted(*entry))
            and (entry[0].id, entry[0].lease) not in self._locked
        ]
        for job, _ in late:
            job.ties = 0
        for part in self._outcomes.parts(late) if late else []:
            try:
                moved |= await self._outcomes.write(self.link, part)
            except LockNotAvailable:
                moved |= await self._resolve_unlocked(part)

    async def _resolve_unlocked(self, part: Sequence[Entry]) -> set[int]:
        """Write the outcomes whose rows nobody else has locked, and set the others aside."""
        ids = [job.id for job, _ in part]
        tied = part[0][0].ties is not None or part[0][1].graph is not None
        async with self.link.connection() as conn, conn.transaction():
            query = self._queries.lock_unlocked_ties(ids) if tied else self._queries.lock_unlocked(ids)
            locked = await run_async(conn, query)
            free = [entry for entry in part if entry[0].id not in locked]
            moved = await self._outcomes.write_on(conn, free) if free else set()
        for entry in part:
            key = entry[0].id, entry[0].lease
            if entry[0].id in locked:
                self._locked[key] = entry
            else:
                self._locked.pop(key, None)
        return moved

    async def _write_refused(self, entry: Entry, error: Exception) -> None:
        """Write less of an outcome that Postgres refuses: first without result and error, then only a dead letter.

        A job that cannot be recorded at all stays with this worker: given back, it would run again for ever, uncharged.
        When the worker has ended, the rescue of the job is charged as a crash.
        """
        (job, resolution), kind = entry, type(error).__name__
        info, less = ErrorInfo("pgqueue.OutcomeRefused", f"the result or error could not be stored: {kind}"), resolution
        if resolution.error is None or resolution.error.type != info.type:
            log.error("job %d: Postgres refuses its result or error (%s)", job.id, kind, extra=job.log_facts)
            verb = "dead_letter" if resolution.graph is not None else resolution.verb
            less = Resolution(verb, verb, refund=resolution.refund, error=info, label=resolution.label)
        elif resolution.verb != "dead_letter":
            why = f"{kind}: {brief(error)}"
            log.error("job %d: Postgres refuses even a plain outcome (%s)", job.id, why, extra=job.log_facts)
            info = ErrorInfo(info.type, f"the outcome ({resolution.verb}) could not be stored: {kind}")
            less = Resolution("dead_letter", "outcome refused", error=info)
        if less is not resolution:
            await self._write([(job, less)])
            return
        self._refused.add(job.id)
        log.error(
            "job %d cannot be recorded, as an outcome or as a dead letter: %s: %s; it stays with this worker",
            job.id, kind, brief(error), extra=job.log_facts,
        )  # fmt: skip


def _event(job: ClaimedJob, resolution: Resolution) -> Event:
    about = job.event_fields
    match resolution.verb:
        case "succeed":
            return JobSucceeded(*about)
        case "retry":
            return JobRetried(*about, resolution.delay, resolution.error)
        case "dead_letter":
            return JobDeadLettered(*about, resolution.reason, resolution.error, resolution.fingerprint)
        case "snooze":
            return JobSnoozed(*about, resolution.delay)
        case "replace":
            return JobReplaced(*about)
        case "withdraw":
            return JobCancelled(*about, resolution.reason)
        case _:
            return JobReleased(*about, resolution.reason)
