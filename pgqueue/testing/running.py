"""Running jobs in a test one after the other: each is claimed, executed and resolved as by a worker."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from uuid import uuid4

from pgqueue.app import App
from pgqueue.errors import ConfigError
from pgqueue.events import JobClaimed, JobExpired, JobStarted, JobSucceeded, WaitingJobCancelled
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.jobs.outcome import Outcome, Raised, Unstarted
from pgqueue.jobs.verdicts import Asleep, SoftTimeout, TimedOut
from pgqueue.queries.workflows.settle import Look
from pgqueue.testing.attempt import AttemptSignals, OneTask, RecordingSpec
from pgqueue.testing.backend import TransactionBackend
from pgqueue.testing.connections import BorrowedLink
from pgqueue.timing import DAY
from pgqueue.worker.duties.resolver import Resolver
from pgqueue.worker.running.attempts import as_written, resolution_of
from pgqueue.worker.running.children import Children
from pgqueue.worker.running.executor import Executor
from pgqueue.worker.running.threads import Threads
from pgqueue.worker.signals import WorkerSignals
from pgqueue.workflows.gates import INPUTS

_COUNTED = {  # a verb of the lifecycle: the field of Drained that counts it
    "succeed": "succeeded",
    "retry": "retried",
    "snooze": "snoozed",
    "dead_letter": "failed",
    "withdraw": "cancelled",
    "park": "parked",
    "replace": "replaced",
}
FOR_EVER = 100 * 366 * DAY  # a job that waits without a timeout is due in the year 9000
MOST_MOVED = 10_000  # jobs that a pause sets aside at a time


@dataclass(frozen=True, slots=True)
class Drained:
    """How many attempts ended in each way. `failed` counts dead letters, `parked` jobs whose task is not registered,
    `replaced` those in whose place a canvas runs."""

    succeeded: int = 0
    retried: int = 0
    snoozed: int = 0
    failed: int = 0
    cancelled: int = 0
    parked: int = 0
    replaced: int = 0

    @property
    def total(self) -> int:
        """The number of attempts."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """Which jobs a drain runs, and when it ends; see `Jobs.drain`."""

    queues: Sequence[str] | None = None
    until_empty: bool = True
    limit: int = 1000
    with_scheduled: bool = False
    raise_errors: bool = False


class TaskRaised(AssertionError):
    """A job failed without an exception that could be raised again."""


class Runner:
    """Runs jobs of one test. `error`: the first that a task raised, if `raise_errors`; the runner stops at it."""

    def __init__(self, app: App, backend: TransactionBackend, threads: Threads, *, raise_errors: bool) -> None:
        self._app = app
        self._backend = backend
        self._conn = backend.pools.aconn
        self._link = BorrowedLink(self._conn)
        self._threads = threads
        self._raise_errors = raise_errors
        self._worker = uuid4()
        self._counts: Counter[str] = Counter()
        self.error: BaseException | None = None

    @property
    def drained(self) -> Drained:
        """How the attempts have ended so far."""
        return Drained(**{_COUNTED[verb]: count for verb, count in self._counts.items() if verb in _COUNTED})

    async def drain(self, options: DrainOptions) -> None:
        """Run the jobs that are due, and those that become due by that."""
        await self._refuse_strangers(options.queues)
        while self.error is None:
            await self._expire()
            await self._keep_pauses(options.queues)
            await self._keep_workflows()
            await self._deliver()
            jobs = await self._claim(options.queues, 1 if options.until_empty else options.limit)
            if not jobs and options.with_scheduled and await self._travel_to_next(options.queues):
                continue
            if jobs and self.drained.total >= options.limit:
                await self._release(jobs)
                one = f"#{jobs[0].id} {jobs[0].task}"
                raise AssertionError(f"{options.limit} attempts have run, and jobs are still due, such as {one}")
            await self.run(jobs)
            if not jobs or not options.until_empty:
                break
        await self._app.listeners.finished()

    async def run_one(self, job_id: int) -> bool:
        """Run one job, due or not; False if it is not pending."""
        jobs = await self._link.run(self._backend.queries.test.claim_one(self._worker, job_id))
        await self.run(jobs)
        await self._app.listeners.finished()
        return bool(jobs)

    async def run(self, jobs: Sequence[ClaimedJob]) -> None:
        """Run claimed jobs, one after the other. After an error that ends it all, release the others."""
        for position, job in enumerate(jobs):
            self._app.listeners.emit(JobClaimed(*job.event_fields))
            if job.ties is not None and job.ties & INPUTS:
                job.inputs = (await self._link.run(self._backend.queries.workflows.inputs([job]))).get(job.id)
            await self._attempt(job)
            if self.error is not None:
                await self._release(jobs[position + 1 :])
                return

    async def _attempt(self, job: ClaimedJob) -> None:
        spec = self._app.tasks.get(job.task)
        recording = None if spec is None else RecordingSpec(spec)
        tasks, signals = OneTask(job.task, recording), AttemptSignals(self._app)
        executor = Executor(tasks, Children(tasks), self._threads, self._app.middlewares, self._app.attempt_hooks)
        async with self._backend.savepoints.around(self._conn, self._backend.queries):
            self._app.listeners.emit(JobStarted(*job.event_fields))
            outcome = await executor.run(job, signals)
        signals.host = None
        resolution = PLAIN_SUCCESS if signals.completed else resolution_of(self._app, job, outcome)
        self._counts["withdraw" if await self._unwanted(job, resolution) else resolution.verb] += 1
        if signals.completed:
            self._app.listeners.emit(JobSucceeded(*job.event_fields))
        else:
            await self._write(job, resolution, signals.note)
        await self._link.run(self._backend.queries.test.stamp(job))
        self._judge(outcome, recording.raised if recording else None)

    async def _unwanted(self, job: ClaimedJob, resolution: Resolution) -> bool:
        """Whether the job would be tried again, but was cancelled while it ran, and so ends as cancelled."""
        if resolution.target.is_terminal:
            return False
        return job.id in await self._link.run(self._backend.queries.jobs.cancel_requests(self._worker, [job.id]))

    async def _write(self, job: ClaimedJob, resolution: Resolution, note: str | None) -> None:
        """Write the outcome with the worker's resolver, which calls listeners and handles rows that are refused."""
        queries = self._backend.queries
        if note is not None:
            await self._link.run(queries.jobs.note_progress([(job, note)]))
        resolver = Resolver(self._link, self._app, WorkerSignals())
        resolver.add(job, as_written(self._app, job, resolution))
        await resolver.step()

    def _judge(self, outcome: Outcome, raised: BaseException | None) -> None:
        """Keep an error that ends the run: the first of a task if `raise_errors`, or one that is meant for the test,
        such as a failed assertion of pytest."""
        if raised is not None and not isinstance(raised, (Exception, SystemExit, asyncio.CancelledError, Asleep)):
            self.error = raised
        elif self._raise_errors and isinstance(outcome, Raised):
            limits = {"timeout": TimedOut, "soft timeout": SoftTimeout}
            if outcome.reason in limits and not isinstance(raised, TimedOut):  # the task saw a CancelledError
                raised = limits[outcome.reason](outcome.error.message)
            self.error = raised or TaskRaised(f"{outcome.error.type}: {outcome.error.message}")

    async def _claim(self, queues: Sequence[str] | None, at_most: int) -> list[ClaimedJob]:
        queries, tasks = self._backend.queries, self._app.tasks
        slots = dict.fromkeys(await self._served(queues), at_most)
        following: list[tuple[int, bool]] = await self._link.run(queries.test.next_jobs(list(slots), at_most))
        if any(metered for _, metered in following):  # in turn with the others, one at a time
            claims = [await self._link.run(queries.test.claim_one(self._worker, job_id)) for job_id, _ in following]
            return [job for claim in claims for job in claim]
        jobs: list[ClaimedJob] = await self._link.run(queries.jobs.claim(self._worker, slots, at_most))
        if jobs:
            return jobs
        parked: dict[str, list[str]] = await self._link.run(queries.jobs.parked_labels(tasks.names()))
        labels = tasks.readable(parked)
        return await self._link.run(queries.jobs.adopt(self._worker, slots, list(labels), at_most, labels))

    async def _expire(self) -> None:
        """Cancel jobs that were not started in time, as a worker's sweeper does."""
        for job in await self._link.run(self._backend.queries.jobs.expire(1000)):
            self._app.listeners.emit(JobExpired(job.id, job.task, job.queue))

    async def _keep_pauses(self, queues: Sequence[str] | None) -> None:
        """Set jobs of paused tasks aside, and bring them back, as a worker's pauser does."""
        pauses = self._backend.queries.pauses
        tasks = await self._link.run(pauses.tasks())
        if over := [task.task for task in tasks if not task.is_paused]:
            await self._link.run(pauses.bring_back(over, MOST_MOVED))
        if len(over) < len(tasks):
            await self._link.run(pauses.set_aside(await self._served(queues), MOST_MOVED, MOST_MOVED))

    async def _keep_workflows(self) -> None:
        """End jobs of workflows that will not run, and settle workflows that have ended, as a worker does."""
        workflows = self._backend.queries.workflows
        look: Look = await self._link.run(workflows.look())
        moved = look.living or look.doomed
        while moved:
            kinds = (
                workflows.tell_late(MOST_MOVED), workflows.stop(MOST_MOVED), workflows.cascade(MOST_MOVED),
                workflows.settle(MOST_MOVED),
            )  # fmt: skip
            ends = [await self._link.run(query) for query in kinds]
            for job in (job for end in ends for job in end.cancelled):
                self._app.listeners.emit(WaitingJobCancelled(*job))
            moved = any(end.moved for end in ends)

    async def _deliver(self) -> None:
        """Let the jobs go on for which something has come, and call off what nobody wants, as a worker does."""
        signals = self._backend.queries.signals
        delivery = await self._link.run(signals.deliver(MOST_MOVED))
        if delivery.incomplete:
            names: list[str] = await self._link.run(signals.incomplete_topics())
            await self._link.run(signals.complete_topics(names))
            await self._link.run(signals.deliver(MOST_MOVED))
        if delivery.unwanted:
            await self._link.run(self._backend.queries.calls.call_off(MOST_MOVED))

    async def _served(self, queues: Sequence[str] | None) -> Sequence[str]:
        if queues is not None:
            return queues
        return await self._link.run(self._backend.queries.test.list_queues())

    async def _travel_to_next(self, queues: Sequence[str] | None) -> bool:
        queries, served = self._backend.queries, await self._served(queues)
        due = await self._link.run(queries.jobs.next_due(served))
        of_all = [due.seconds, await self._link.run(queries.test.next_turn(served))]
        seconds = min((each for each in of_all if each is not None and each < FOR_EVER), default=None)
        if seconds is not None:
            self._backend.declare_schedules()  # before the clock moves: their ticks count from now
            self._backend.travel(timedelta(seconds=max(seconds, 0.0) + 0.001))
        return seconds is not None

    async def _release(self, jobs: Sequence[ClaimedJob]) -> None:
        for job in jobs:
            await self._write(job, resolution_of(self._app, job, Unstarted()), None)

    async def _refuse_strangers(self, queues: Sequence[str] | None) -> None:
        served = await self._served(queues)
        found = await self._link.run(self._backend.queries.test.count_foreign(self._backend.newest_foreign, served))
        if found:
            raise ConfigError(
                f"{found} jobs wait in database {self._conn.info.dbname!r} that this test has not enqueued, and would "
                "be run: give tests a database of their own"
            )
