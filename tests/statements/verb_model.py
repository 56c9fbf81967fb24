"""What pgqueue's statements promise, in plain Python: the model that test_verbs.py compares the database with.

Every move goes through `pgqueue.lifecycle.TRANSITIONS`; the rest (attempts, leases, refunds, cancellations, crashes)
is written here once more, from the documentation and not from the SQL.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from pgqueue.jobs.job import ClaimedJob, JobState
from pgqueue.jobs.lifecycle import TRANSITIONS, Resolution

TABLES = {JobState.SUCCEEDED: "finished", JobState.CANCELLED: "finished", JobState.FAILED: "dead"}

Line = tuple[str | None, str, int, int]


class Seen(NamedTuple):
    """The parts of a job that are compared: they must be equal in the model and in the database."""

    table: str
    state: str
    attempt: int
    lease: int
    crash_count: int
    due: bool | None
    worker: UUID | None
    cancel_requested: bool
    progress: str | None


@dataclass
class ModelJob:
    """A job as the model has it."""

    id: int
    task: str
    priority: int
    max_attempts: int
    due: bool
    history: bool = True
    state: JobState | None = None
    attempt: int = 0
    lease: int = 0
    crash_count: int = 0
    worker: UUID | None = None
    cancel_requested: bool = False
    progress: str | None = None

    def move(self, verb: str) -> Line:
        """Change the state as the table says; raise if it does not. Return the line for the log."""
        sources, target = TRANSITIONS[verb]
        assert self.state in (sources or {None}), f"{verb} of a job that is {self.state}"
        line = self.state, target, self.attempt, self.lease
        self.state = target
        if target != JobState.RUNNING:
            self.worker = None
            self.cancel_requested = False
        return line

    def seen(self) -> Seen:
        live = self.state not in TABLES
        running = self.state == JobState.RUNNING
        return Seen(
            TABLES.get(self.state, "live"), str(self.state), self.attempt, self.lease, self.crash_count,
            self.due if live else None, self.worker, self.cancel_requested, self.progress if running else None,
        )  # fmt: skip


class Model:
    """All jobs and workers, and what each verb does with them. A verb returns what its statement must answer."""

    def __init__(self) -> None:
        self.jobs: dict[int, ModelJob] = {}
        self.log: dict[int, list[Line]] = {}  # outlives a job that keeps no row
        self.alive: set[UUID] = set()
        self.happened: set[tuple[str, JobState | None]] = set()

    def move(self, job: ModelJob, verb: str, *, logged: bool = True) -> None:
        self.happened.add((verb, job.state))
        line = job.move(verb)
        if logged:
            self.log.setdefault(job.id, []).append(line)

    def enqueue(self, job: ModelJob) -> None:
        self.move(job, "enqueue", logged=job.history)
        self.jobs[job.id] = job

    def claim(self, worker: UUID, run_at: dict[int, datetime], room: int) -> list[int]:
        ready = [job for job in self.jobs.values() if job.state == JobState.PENDING and job.due]
        return self._take("claim", worker, _in_order(ready, run_at)[:room])

    def adopt(self, worker: UUID, run_at: dict[int, datetime], tasks: Sequence[str], room: int) -> set[int]:
        parked = [job for job in self.jobs.values() if job.state == JobState.BLOCKED and job.due]
        found = [job for task in tasks for job in _in_order((j for j in parked if j.task == task), run_at)]
        return set(self._take("adopt", worker, found[:room]))

    def _take(self, verb: str, worker: UUID, jobs: list[ModelJob]) -> list[int]:
        if worker not in self.alive:
            return []
        for job in jobs:
            job.attempt, job.lease, job.progress = job.attempt + 1, job.lease + 1, None
            self.move(job, verb, logged=job.history)
            job.worker = worker
        return [job.id for job in jobs]

    def held(self, claim: ClaimedJob) -> ModelJob | None:
        """The job, if this claim of it is the current one."""
        job = self.jobs.get(claim.id)
        current = job is not None and job.state == JobState.RUNNING and job.lease == claim.lease
        self.happened.add(("current" if current else "stale", job.state if job else None))
        return job if current else None

    def resolve(self, batch: Iterable[tuple[ClaimedJob, Resolution]]) -> set[int]:
        moved = set()
        for claim, resolution in batch:
            job = self.held(claim)
            if job is not None:
                self._resolve(job, resolution)
                moved.add(job.id)
        return moved

    def _resolve(self, job: ModelJob, resolution: Resolution) -> None:
        if resolution.verb == "succeed" and not job.history:
            self.move(job, "succeed", logged=False)
            del self.jobs[job.id]
        elif resolution.target.is_terminal:
            self.move(job, resolution.verb)
        elif job.cancel_requested:
            self.move(job, "withdraw")
        else:
            self.move(job, resolution.verb)
            job.attempt -= resolution.refund
            job.due = job.due and resolution.delay == 0

    def cancel(self, job_id: int) -> bool | None:
        """Return True if it has ended, False if its worker is asked, None if there is no such job (any more)."""
        job = self.jobs.get(job_id)
        if job is None or job.state is None or job.state.is_terminal:
            return None
        if job.state == JobState.RUNNING:
            job.cancel_requested = True
            return False
        self.move(job, "cancel")
        return True

    def retry(self, job_id: int) -> bool:
        """Let a job run again now; return whether its state allows that."""
        job = self.jobs.get(job_id)
        if job is not None and job.state in (JobState.FAILED, JobState.CANCELLED):
            job.attempt = job.crash_count = 0
            job.due = job.history = True
            self.move(job, "redrive" if job.state == JobState.FAILED else "restore")
            return True
        return job is not None and job.attempt > 0 and self.promote(job_id)

    def promote(self, job_id: int) -> bool:
        """Make a job due that waits; return whether it waits."""
        job = self.jobs.get(job_id)
        if job is None or job.state != JobState.PENDING:
            return False
        if not job.due:
            job.due = True
            self.note(job)
        return True

    def edit(self, job_id: int) -> bool:
        """Change a job that waits; return whether it does."""
        job = self.jobs.get(job_id)
        waits = job is not None and job.state in (JobState.PENDING, JobState.BLOCKED)
        if job is not None and waits:
            self.note(job)
        return waits

    def discard(self, job_id: int) -> int:
        """End a dead letter as cancelled; return how many."""
        job = self.jobs.get(job_id)
        if job is None or job.state != JobState.FAILED:
            return 0
        self.move(job, "discard")
        return 1

    def note(self, job: ModelJob) -> None:
        """Log a change that moves no job."""
        assert job.state is not None
        self.log.setdefault(job.id, []).append((job.state, job.state, job.attempt, job.lease))

    def expire(self, job_id: int) -> bool:
        """End a job whose time to live has passed, if it has not started; return whether it ended."""
        job = self.jobs.get(job_id)
        ended = job is not None and job.attempt == 0 and job.state in (JobState.PENDING, JobState.BLOCKED)
        if job is not None and ended:
            self.move(job, "expire")
        return ended

    def rescue(self, max_crashes: int, limits: dict[str, int]) -> set[tuple[int, str]]:
        lost = [j for j in self.jobs.values() if j.state == JobState.RUNNING and j.worker not in self.alive]
        for job in lost:
            if job.cancel_requested:
                self.move(job, "rescue_cancelled")
                continue
            job.crash_count += 1
            spent = job.attempt >= job.max_attempts or job.crash_count >= limits.get(job.task, max_crashes)
            self.move(job, "rescue_spent" if spent else "rescue")
            job.due = True
        return {(job.id, str(job.state)) for job in lost}

    def release_strays(self, worker: UUID, held: Collection[int]) -> set[int]:
        strays = [
            job
            for job in self.jobs.values()
            if job.state == JobState.RUNNING and job.worker == worker and job.id not in held
        ]
        for job in strays:
            cancelled = job.cancel_requested
            self.move(job, "withdraw" if cancelled else "release")
            job.attempt -= not cancelled
        return {job.id for job in strays}

    def note_progress(self, notes: Iterable[tuple[ClaimedJob, str]]) -> set[int]:
        noted = set()
        for claim, text in notes:
            job = self.held(claim)
            if job is not None:
                job.progress = text
                noted.add(job.id)
        return noted


def _in_order(jobs: Iterable[ModelJob], run_at: dict[int, datetime]) -> list[ModelJob]:
    return sorted(jobs, key=lambda job: (-job.priority, run_at[job.id], job.id))
