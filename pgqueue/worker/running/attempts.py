"""The attempts of a worker: claimed jobs go into slots, run, and become resolutions."""

import asyncio
import logging
import uuid
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from functools import partial

from pgqueue.app import DEFAULT_RETRY, App
from pgqueue.error_info import ErrorInfo
from pgqueue.errors import PgqueueError
from pgqueue.events import JobClaimed, JobStarted, JobSucceeded, StepsUnused
from pgqueue.jobs.fingerprint import fingerprint
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution, decide
from pgqueue.jobs.outcome import (
    RETURNED_NONE,
    AskedCancel,
    AskedRateLimited,
    Outcome,
    Raised,
    Replaced,
    Succeeded,
    Unstarted,
)
from pgqueue.tasks.context import Signals
from pgqueue.tasks.sealing import seal_progress, seal_resolution
from pgqueue.tasks.stored_flow import Latecomers
from pgqueue.timing import monotonic
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.duties.progress_writer import ProgressWriter
from pgqueue.worker.duties.resolver import Resolver
from pgqueue.worker.duties.step_writer import StepWriter
from pgqueue.worker.running.calling import outcome_of_error
from pgqueue.worker.running.children import Children
from pgqueue.worker.running.completion import Completion
from pgqueue.worker.running.executor import Executor, Unawaited
from pgqueue.worker.running.step_host import BatchedSteps
from pgqueue.worker.running.threads import Threads
from pgqueue.worker.signals import WorkerSignals
from pgqueue.worker.slots import RunningJob

log = logging.getLogger("pgqueue.worker")
STRETCH_SECONDS = 0.001  # for which jobs run one after the other before the event loop turns
MAX_WAIT_SECONDS = 0.2  # for which a job claimed ahead waits for a slot, before it is released


class Attempts:
    """Runs jobs in slots. Each ends with exactly one resolution, or with none if its lease is lost.

    An asyncio task for each job costs more than a short job. So one asyncio task runs jobs one after the other, as long
    as they end without suspending and leave its context as it was. The first job that suspends keeps that task to
    itself, as if it had been made for the job, and a new one goes on with the others.
    """

    def __init__(
        self,
        core: WorkerCore,
        signals: WorkerSignals,
        resolver: Resolver,
        children: Children,
        progress: ProgressWriter,
        steps: StepWriter,
    ) -> None:
        self._app = core.app
        self.tasks = core.app.tasks
        self._codec = core.app.codec
        self._listeners = core.app.listeners
        self._slots = core.slots
        self._signals = signals
        self._resolver = resolver
        self._children = children
        self._progress = progress
        self._steps = steps
        threads, app = Threads(core.slots.most), core.app
        self._executor = Executor(app.tasks, children, threads, app.middlewares, app.attempt_hooks)
        self._latecomers = Latecomers(app.tasks)
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._wait_timer: asyncio.TimerHandle | None = None
        self._clean_context = copy_context()  # with which each job begins
        self._next_task: asyncio.Task[None] | None = None  # it will begin jobs that wait
        self._turn = 0  # of the event loop, counted only while jobs begin

    def take(self, jobs: Sequence[ClaimedJob]) -> None:
        """Run jobs that were just claimed, at once or when slots are free; release them if this is closed."""
        if self._latecomers:
            jobs = [job for job in jobs if not self._meter(job)]
        self._slots.note_sizes(jobs)
        now = monotonic()
        for job in jobs:
            job.due = now - job.waited
            self._slots.add_waiting(job)
            if self._listeners:
                self._listeners.emit(JobClaimed(*job.event_fields))
        if self._closed:
            self._release_waiting()
        self.begin_waiting()
        if jobs and self._wait_timer is None and self._slots.waiting:
            self._wait_timer = self._loop.call_later(MAX_WAIT_SECONDS, self._check_waits, self._slots.waiting[0])

    def _meter(self, job: ClaimedJob) -> bool:
        """Give a job back that rules concern and that does not carry what they ask. Returns whether it is one."""
        label = self._latecomers.label(job)
        if label is not None:
            self._resolver.add(job, Resolution("meter", "a rule concerns it now", refund=True, label=label))
        return label is not None

    def begin_waiting(self) -> None:
        """Begin jobs that wait for a slot, unless too many outcomes wait to be written."""
        if self._next_task is not None and (self._next_task.cancelling() or self._next_task.done()):
            self._next_task = None  # a job has cancelled it before it began, and now it never will
        if self._next_task is None and self._slots.can_begin and not self._resolver.behind:
            self._next_task = self._loop.create_task(self._run_waiting(), context=self._clean_context.copy())

    async def _run_waiting(self) -> None:
        """Begin jobs that wait, until one has suspended, or it is time for the event loop to turn."""
        own, self._next_task = self._next_task, None
        self._loop.call_soon(self._count_turn)  # runs before this task can be resumed
        turn, now = self._turn, monotonic()
        until = now + STRETCH_SECONDS
        while (running := self._slots.begin_next()) is not None:
            self.begin_waiting()
            running.host = self
            running.job.began = now
            if self._listeners:
                self._listeners.emit(JobStarted(*running.job.event_fields))
            try:
                in_thread = self._executor.start(running.job, running, partial(self._thread_done, running))
            except Exception as error:  # noqa: BLE001 - after any error the slot is freed and the outcome written
                self._finish(running, _unforeseen(running.job, error))
                continue
            if not in_thread:
                running.task = own
                await self._run(running)
            now = monotonic()
            if self._turn != turn or now > until or copy_context() != self._clean_context:
                break
            if own is None or own.cancelling():
                break
        self.begin_waiting()
        self._signals.slot_freed()

    def _count_turn(self) -> None:
        self._turn += 1

    def completer(self, job: ClaimedJob, signals: Signals) -> Completion:
        """Return the completion behind a job's `ctx.transaction()`."""
        return Completion(self._app, job, signals)

    def step_host(self, job: ClaimedJob, signals: Signals) -> BatchedSteps:
        """Return what keeps the steps of a job."""
        return BatchedSteps(self._app, job, self.completer(job, signals), self._steps)

    def note_progress(self, job: ClaimedJob, text: str) -> None:
        """Write what a job reports by `ctx.progress()`."""
        if self._codec is not None:
            text = seal_progress(self._codec, job.task, text)
        self._progress.note(job, text)

    def _check_waits(self, eldest: ClaimedJob) -> None:
        """Release all jobs that wait if `eldest` still does, for other workers may be idle. Otherwise check later."""
        self._wait_timer = None
        waiting = self._slots.waiting
        if eldest in waiting:
            self._release_waiting()
            self._signals.slot_freed()
        elif waiting:
            self._wait_timer = self._loop.call_later(MAX_WAIT_SECONDS, self._check_waits, waiting[0])

    def _release_waiting(self) -> None:
        """Release the jobs that wait for a slot."""
        waiting = self._slots.waiting
        self._slots.ahead = 0
        self._slots.drop_waiting(waiting)
        if waiting:
            log.info("released %d jobs that were claimed ahead", len(waiting))
        for job in waiting:
            resolution = resolution_of(self._app, job, Unstarted())
            self._resolver.add(job, as_written(self._app, job, resolution))

    def held_jobs(self) -> list[int]:
        """The jobs this worker has: in a slot, waiting for one, or with an outcome that is not written yet."""
        running = [r.job.id for r in self._slots.running if not r.abandoned]
        return running + [job.id for job in self._slots.waiting] + self._resolver.held_jobs()

    def close(self) -> None:
        """Release the jobs that wait for a slot, and all that are claimed from now on."""
        self._closed = True
        self._release_waiting()

    def cancel(self, jobs: Collection[int]) -> None:
        """Stop jobs whose cancellation was requested: an async task now, one in a thread when it next checks."""
        wanted = [r for r in self._slots.running if r.job.id in jobs and not r.cancelled]
        for running in wanted:
            log.info("job %d is to be cancelled", running.job.id, extra=running.job.log_facts)
            running.cancelled = True
        self._interrupt(wanted)
        waiting = [job for job in self._slots.waiting if job.id in jobs]
        self._slots.drop_waiting(waiting)
        for job in waiting:
            self._write(job, AskedCancel("cancelled by request"))

    def abandon(self, worker: uuid.UUID | None = None) -> int:
        """Drop jobs whose lease is lost, or may be: those claimed under one worker id, or all. Return how many.

        They run again elsewhere.
        """
        lost = [r for r in self._slots.running if worker is None or r.job.worker_id == worker]
        for running in lost:
            running.abandoned = True
        self._steps.drop({running.job.id for running in lost})
        self._interrupt(lost)
        waiting = [job for job in self._slots.waiting if worker is None or job.worker_id == worker]
        self._slots.drop_waiting(waiting)
        return len(lost) + len(waiting)

    async def cut_off(self) -> None:
        """Release jobs that do not end by themselves: async tasks are cancelled first, threads are left behind."""
        log.warning("cutting off %d jobs that did not end in time", len(self._slots.running))
        self._interrupt(self._slots.running)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._slots.emptied(), 1.0)
        self._children.kill_all()  # a job that ignores SIGTERM must not run on beside its next attempt
        with suppress(TimeoutError):
            await asyncio.wait_for(self._slots.emptied(), 1.0)
        for running in self._slots.running:
            if not running.abandoned:
                running.abandoned = True
                self._write(running.job, Unstarted())

    def close_threads(self) -> None:
        """End the threads that are idle."""
        self._executor.close()

    def _interrupt(self, jobs: Iterable[RunningJob]) -> None:
        """Cancel async tasks and stop child processes. A thread cannot be cancelled: its slot stays taken."""
        for running in jobs:
            spec = self._app.tasks.get(running.job.task)
            if running.task is not None and spec is not None and (spec.can_be_stopped or running.awaited):
                running.interrupted = True
                running.task.cancel()

    async def _run(self, running: RunningJob, unawaited: Unawaited | None = None) -> None:
        """Run a job to its end on the event loop, or await what its thread has returned."""
        job = running.job
        outcome: Outcome = Unstarted()
        try:
            if unawaited is None:
                outcome = await self._executor.run(job, running)
            else:
                outcome = await self._executor.finish(job, running, unawaited)
        except asyncio.CancelledError as error:
            outcome = self._outcome_of_cancellation(running, error)
        except PgqueueError as error:
            log.error("job %d was not begun, and this worker stops: %s", job.id, error, extra=job.log_facts)
            self._signals.cannot_run_jobs(error)
        except BaseException as error:  # noqa: BLE001 - after any error the slot is freed and the outcome written
            outcome = _unforeseen(job, error)
        self._finish(running, outcome)

    def _outcome_of_cancellation(self, running: RunningJob, error: asyncio.CancelledError) -> Outcome:
        if not running.interrupted:  # given back without a charge, it would run for ever
            return outcome_of_error(self._app.tasks[running.job.task], error)
        if running.cancelled:
            return AskedCancel("cancelled by request")
        if not running.abandoned:
            log.warning("job %d was cancelled by its worker", running.job.id, extra=running.job.log_facts)
        return Unstarted()

    def _thread_done(self, running: RunningJob, outcome: Outcome | Unawaited) -> None:
        """Go on with a job whose call in a thread has returned."""
        if isinstance(outcome, Unawaited):
            running.awaited = True
            own = outcome.context or self._clean_context.copy()
            running.task = self._loop.create_task(self._run(running, outcome), context=own)
            running.task.add_done_callback(partial(self._cut_before_it_began, running, outcome))
            if running.cancelled or running.abandoned:
                self._interrupt([running])
        else:
            self._finish(running, outcome)
            self.begin_waiting()
            self._signals.slot_freed()

    def _cut_before_it_began(self, running: RunningJob, unawaited: Unawaited, task: "asyncio.Task[None]") -> None:
        """End a job whose asyncio task was cancelled before its first step: then nothing of `_run` is executed."""
        if not task.cancelled() or running.host is None:
            return
        error = asyncio.CancelledError()
        if unawaited.attempt is not None:
            unawaited.attempt.cut_off(error)
        self._finish(running, self._outcome_of_cancellation(running, error))
        self.begin_waiting()
        self._signals.slot_freed()

    def _finish(self, running: RunningJob, outcome: Outcome) -> None:
        self._slots.free(running)
        running.host = None
        running.job.ended = monotonic()
        if running.job.lane is not None:
            self._signals.turn_over(running.job)
        self._progress.forget(running.job)
        if running.completed:
            log.debug("job %d was completed in its own transaction", running.job.id)
            if isinstance(outcome, (Succeeded, Replaced)) and outcome is not RETURNED_NONE:
                log.error(
                    "job %d %s returned a value after ctx.transaction(), which is not stored, for the job had ended: "
                    "give it as ctx.transaction(result=…)",
                    running.job.id, running.job.task, extra=running.job.log_facts,
                )  # fmt: skip
            self._signals.jobs_moved({running.job.id})
            self._signals.attempts_ended([(running.job, PLAIN_SUCCESS)])
            if running.job.lane is not None:
                self._signals.turns_ended([running.job])
            if running.job.ties is not None:
                self._signals.workflow_moved()
            self._listeners.emit(JobSucceeded(*running.job.event_fields))
        elif not running.abandoned:
            if running.step_calls is not None and isinstance(outcome, Succeeded):
                self._tell_of_unused(running.job, running.step_calls.journal.unused)
            self._write(running.job, outcome)

    def _tell_of_unused(self, job: ClaimedJob, names: Sequence[str]) -> None:
        """Tell of recorded steps that a task did not use before it returned."""
        if names:
            log.info("job %d did not use its recorded steps %s", job.id, ", ".join(names), extra=job.log_facts)
            self._listeners.emit(StepsUnused(*job.event_fields, tuple(names)))

    def _write(self, job: ClaimedJob, outcome: Outcome) -> None:
        resolution = resolution_of(self._app, job, outcome)
        _log_end(job, resolution)
        self._resolver.add(job, as_written(self._app, job, resolution))


def _unforeseen(job: ClaimedJob, error: BaseException) -> Outcome:
    log.error("job %d: running it failed in an unforeseen way: %s", job.id, type(error).__name__, extra=job.log_facts)
    return Raised(ErrorInfo.of(error))


def resolution_of(app: App, job: ClaimedJob, outcome: Outcome) -> Resolution:
    """Return the resolution that an outcome leads to, by the retry policy of the task."""
    spec = app.tasks.get(job.task)
    try:
        resolution = decide(job, outcome, spec.retry if spec else DEFAULT_RETRY)
        if isinstance(outcome, AskedRateLimited) and not resolution.closes:
            what = "no limit" if outcome.rule is None else f"limit {outcome.rule!r:.100}, which the job does not have"
            log.warning("job %d: RateLimited closes nothing, for it means %s", job.id, what, extra=job.log_facts)
        return resolution
    except Exception as error:  # noqa: BLE001 - a user's own policy may raise anything
        log.error(
            "job %d: the retry policy of %s raised %s", job.id, job.task, type(error).__name__, extra=job.log_facts
        )
        return decide(job, outcome, DEFAULT_RETRY)


def as_written(app: App, job: ClaimedJob, resolution: Resolution) -> Resolution:
    """Return a resolution as it is written: a dead letter with its fingerprint, and sealed, if the app has a codec, so
    that events carry it sealed, too."""
    if resolution.verb == "dead_letter":
        group = fingerprint(resolution.error, resolution.reason, sealed=app.codec is not None)
        resolution = replace(resolution, fingerprint=group)
    return resolution if app.codec is None else seal_resolution(app.codec, job.task, resolution)


def _log_end(job: ClaimedJob, resolution: Resolution) -> None:
    """Log how an attempt ended, without arguments and messages of errors: those stay in the database."""
    if resolution.verb == "succeed" and not log.isEnabledFor(logging.DEBUG):
        return  # the hot path
    end = f"job {job.id} {job.task}, attempt {job.attempt} of {job.max_attempts}"
    kind = resolution.error.type if resolution.error else resolution.reason
    about = job.log_facts
    match resolution.verb:
        case "succeed":
            log.debug("%s: succeeded", end, extra=about)
        case "retry":
            log.warning("%s: %s; again in %.1f s", end, kind, resolution.delay, extra=about)
        case "dead_letter":
            dead = f"it is a dead letter ({resolution.reason}): pgqueue jobs show {job.id}"
            log.error("%s: %s; %s", end, kind, dead, extra=about)
        case "park":
            log.warning("%s: %s; it waits for a worker that knows it", end, resolution.reason, extra=about)
        case "snooze" if kind == "pgqueue.UnknownKey":
            log.warning("%s: sealed with a key that is not here; again in %.0f s", end, resolution.delay, extra=about)
        case "release":
            log.info("%s: released", end, extra=about)
        case "replace":
            log.info("%s: replaced, it waits for what runs in its place", end, extra=about)
        case verb:
            log.info("%s: %s", end, {"snooze": "snoozed", "withdraw": "cancelled"}.get(verb, verb), extra=about)
