"""The attempts of a worker: claimed jobs go into slots, run, and leave as resolutions."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial

from pgqueue.app import DEFAULT_RETRY, App
from pgqueue.error_info import ErrorInfo
from pgqueue.errors import PgqueueError
from pgqueue.events import JobClaimed, JobStarted
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution, decide
from pgqueue.jobs.outcome import Outcome, Raised, Unstarted, Withdrawn
from pgqueue.tasks.context import Signals
from pgqueue.tasks.sealing import seal_progress, seal_resolution
from pgqueue.timing import monotonic
from pgqueue.worker.claiming.slots import Running, Slots
from pgqueue.worker.duties.progress import Reporter
from pgqueue.worker.duties.resolver import Resolver
from pgqueue.worker.running.children import Children
from pgqueue.worker.running.completion import Completion
from pgqueue.worker.running.executor import Executor, Left

log = logging.getLogger("pgqueue.worker")
STRETCH = 0.001  # seconds that jobs run one after the other before the event loop turns
LONGEST_WAIT = 0.2  # seconds that a job claimed ahead waits for a slot, before it is given back


class Attempts:
    """Runs jobs in slots. Each ends with exactly one resolution, or none where the lease is no longer ours.

    An asyncio task for each job costs more than a short job. So one runs jobs one after the other, for as long as they
    end without suspending and leave its context as it was. The first that suspends keeps that task to itself, as if it
    had been made for it, and the next task goes on with the others.
    """

    def __init__(
        self,
        app: App,
        slots: Slots,
        resolver: Resolver,
        on_freed: Callable[[], None],
        children: Children,
        on_broken: Callable[[], None],
        reporter: Reporter,
        on_completed: Callable[[set[int]], None],
    ) -> None:
        self._app = app
        self._codec = app.codec
        self._slots = slots
        self._executor = Executor(app.tasks, slots.total, children, app.middlewares)
        self._resolver = resolver
        self._on_freed = on_freed
        self._children = children
        self._on_broken = on_broken
        self._reporter = reporter
        self._on_completed = on_completed
        self._closed = False
        self._listeners = app.listeners
        self._bound: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._clean = copy_context()  # what each job begins with
        self._next: asyncio.Task[None] | None = None  # it will begin what waits
        self._turn = 0  # of the event loop, as far as it matters

    def take(self, jobs: Sequence[ClaimedJob]) -> None:
        """Run jobs that were just claimed, at once or when slots are free; give them back if no more are taken."""
        for job in jobs:
            self._slots.admit(job)
            if self._listeners:
                self._listeners.emit(JobClaimed(*job.about))
        if self._closed:
            self._return_waiting()
        self.begin()
        if jobs and self._bound is None and self._slots.waiting:
            self._bound = self._loop.call_later(LONGEST_WAIT, self._bound_wait, self._slots.waiting[0])

    def begin(self) -> None:
        """See that what waits for a slot begins, unless too many outcomes wait to be written."""
        if self._next is None and self._slots.can_begin and not self._resolver.behind:
            self._next = self._loop.create_task(self._run_some(), context=self._clean.copy())

    async def _run_some(self) -> None:
        """Begin jobs that wait, until one has suspended, or it is time to let others run."""
        own, self._next = self._next, None
        self._loop.call_soon(self._turned)  # comes before this task can be resumed
        turn, until = self._turn, monotonic() + STRETCH
        while (running := self._slots.begin()) is not None:
            self.begin()
            running.host = self
            if self._listeners:
                self._listeners.emit(JobStarted(*running.job.about))
            if not self._executor.start(running.job, running, partial(self._told, running)):
                running.task = own
                await self._run(running)
            if self._turn != turn or monotonic() > until or copy_context() != self._clean:
                break
            if own is None or own.cancelling():
                break
        self.begin()
        self._on_freed()

    def _turned(self) -> None:
        self._turn += 1

    def completer(self, job: ClaimedJob, signals: Signals) -> Completion:
        """Make what `ctx.transaction()` needs."""
        return Completion(self._app, job, signals)

    def note_progress(self, job: ClaimedJob, text: str) -> None:
        """Have `ctx.progress()` written."""
        if self._codec is not None:
            text = seal_progress(self._codec, job.task, text)
        self._reporter.note(job, text)

    def _bound_wait(self, eldest: ClaimedJob) -> None:
        """Give back what waits, if a job has waited as long as this: others may be idle. Else look again later."""
        self._bound = None
        waiting = self._slots.waiting
        if eldest in waiting:
            log.debug("%d jobs were claimed ahead and would wait too long: given back", len(waiting))
            self._return_waiting()
            self._on_freed()
        elif waiting:
            self._bound = self._loop.call_later(LONGEST_WAIT, self._bound_wait, waiting[0])

    def _return_waiting(self) -> None:
        """Give back what waits for a slot."""
        waiting = self._slots.waiting
        self._slots.ahead = 0
        self._slots.turn_away(waiting)
        for job in waiting:
            self._write(job, Unstarted())

    def held(self) -> list[int]:
        """The jobs this worker has: in a slot, waiting for one, or with an outcome still to be written."""
        running = [r.job.id for r in self._slots.running if not r.abandoned]
        return running + [job.id for job in self._slots.waiting] + self._resolver.held()

    def close(self) -> None:
        """Give back what waits for a slot, and whatever is claimed from now on."""
        self._closed = True
        self._return_waiting()

    def cancel(self, jobs: Collection[int]) -> None:
        """Stop jobs that somebody wants cancelled: an async task now, one in a thread when it looks."""
        wanted = [r for r in self._slots.running if r.job.id in jobs and not r.cancelled]
        for running in wanted:
            log.info("job %d is to be cancelled", running.job.id)
            running.cancelled = True
        self._interrupt(wanted)
        waiting = [job for job in self._slots.waiting if job.id in jobs]
        self._slots.turn_away(waiting)
        for job in waiting:
            self._write(job, Withdrawn("cancelled by request"))

    def abandon(self, worker: uuid.UUID | None = None) -> int:
        """Drop jobs whose lease is lost, or may be: those of one identity, or all. They run again elsewhere."""
        lost = [r for r in self._slots.running if worker is None or r.job.worker_id == worker]
        for running in lost:
            running.abandoned = True
        self._interrupt(lost)
        waiting = [job for job in self._slots.waiting if worker is None or job.worker_id == worker]
        self._slots.turn_away(waiting)
        return len(lost) + len(waiting)

    async def cut_off(self) -> None:
        """Give back what does not end by itself: async tasks are cancelled first, threads are left behind."""
        log.warning("cutting off %d jobs that did not end in time", len(self._slots.running))
        self._interrupt(self._slots.running)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._slots.emptied(), 1.0)
        self._children.kill_all()  # what ignores SIGTERM must not run on beside its next attempt
        with suppress(TimeoutError):
            await asyncio.wait_for(self._slots.emptied(), 1.0)
        for running in self._slots.running:
            if not running.abandoned:
                running.abandoned = True
                self._write(running.job, Unstarted())

    def release_threads(self) -> None:
        """Let go of the threads that idle."""
        self._executor.close()

    def _interrupt(self, jobs: Iterable[Running]) -> None:
        """Cancel async tasks and stop child processes. A thread cannot be cancelled: its slot stays taken."""
        for running in jobs:
            spec = self._app.tasks.get(running.job.task)
            if running.task is not None and spec is not None and spec.can_be_stopped:
                running.task.cancel()

    async def _run(self, running: Running, left: Left | None = None) -> None:
        """Run a job to its end on the event loop, or what a thread has left of it."""
        job = running.job
        outcome: Outcome = Unstarted()
        try:
            outcome = await (self._executor.finish(job, left) if left else self._executor.run(job, running))
        except asyncio.CancelledError:
            if running.cancelled:
                outcome = Withdrawn("cancelled by request")
            elif not running.abandoned:
                log.warning("job %d was cancelled by its worker", job.id)
        except PgqueueError as error:
            log.error("job %d was not begun, and this worker stops: %s", job.id, error)
            self._on_broken()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the slot is freed and the outcome written
            log.error("job %d: running it failed in an unforeseen way: %s", job.id, type(error).__name__)
            outcome = Raised(ErrorInfo.of(error))
        self._finish(running, outcome)

    def _told(self, running: Running, outcome: Outcome | Left) -> None:
        """Go on with a job whose thread is done with it."""
        if isinstance(outcome, Left):
            running.task = self._loop.create_task(self._run(running, outcome), context=self._clean.copy())
        else:
            self._finish(running, outcome)
            self.begin()
            self._on_freed()

    def _finish(self, running: Running, outcome: Outcome) -> None:
        self._slots.give_back(running)
        running.host = None
        self._reporter.forget(running.job)
        if running.completed:
            log.debug("job %d was completed in its own transaction", running.job.id)
            self._on_completed({running.job.id})
        elif not running.abandoned:
            self._write(running.job, outcome)

    def _write(self, job: ClaimedJob, outcome: Outcome) -> None:
        resolution = judged(self._app, job, outcome)
        _tell(job, resolution)
        self._resolver.add(job, sealed(self._app, job, resolution))


def judged(app: App, job: ClaimedJob, outcome: Outcome) -> Resolution:
    """Return what an outcome means, by the policy of the task."""
    spec = app.tasks.get(job.task)
    try:
        return decide(job, outcome, spec.retry if spec else DEFAULT_RETRY)
    except Exception as error:  # noqa: BLE001 - a user's own policy; the outcome must be written all the same
        log.error("job %d: the retry policy of %s raised %s", job.id, job.task, type(error).__name__)
        return decide(job, outcome, DEFAULT_RETRY)


def sealed(app: App, job: ClaimedJob, resolution: Resolution) -> Resolution:
    """Return a resolution as it is written: sealed, if there is a codec. So events carry nothing in the clear, too."""
    return resolution if app.codec is None else seal_resolution(app.codec, job.task, resolution)


def _tell(job: ClaimedJob, resolution: Resolution) -> None:
    """Log how an attempt ended. No arguments, no messages of errors: they stand in the database."""
    if resolution.verb == "succeed" and not log.isEnabledFor(logging.DEBUG):
        return  # the hot path
    end = f"job {job.id} {job.task}, attempt {job.attempt} of {job.max_attempts}"
    kind = resolution.error.type if resolution.error else resolution.reason
    match resolution.verb:
        case "succeed":
            log.debug("%s: succeeded", end)
        case "retry":
            log.warning("%s: %s; again in %.1f s", end, kind, resolution.delay)
        case "dead_letter":
            log.error("%s: %s; it is a dead letter (%s): pgqueue jobs show %d", end, kind, resolution.reason, job.id)
        case "park":
            log.warning("%s: %s; it waits for a worker that knows it", end, resolution.reason)
        case "snooze" if kind == "pgqueue.UnknownKey":
            log.warning("%s: sealed with a key that is not here; again in %.0f s", end, resolution.delay)
        case "release":
            log.info("%s: given back", end)
        case verb:
            log.info("%s: %s", end, {"snooze": "snoozed", "withdraw": "cancelled"}.get(verb, verb))
