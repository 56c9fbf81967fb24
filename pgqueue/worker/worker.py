"""The worker process: `pgqueue work` runs it, stops it, makes it quiet, and asks for its health."""

import asyncio
import faulthandler
import inspect
import logging
import sys
from functools import partial

from pgqueue.app import App, Hook
from pgqueue.errors import PgqueueError
from pgqueue.jobs.served_queues import check_served_queues
from pgqueue.process.counters import ProcessReading
from pgqueue.process.duty import run_duties
from pgqueue.process.health import Health
from pgqueue.queries.workers import Request
from pgqueue.worker.core import Served, WorkerCore
from pgqueue.worker.running.child import ChildSettings
from pgqueue.worker.running.children import Children
from pgqueue.worker.running.completion import Completion
from pgqueue.worker.running_worker import RunningWorker
from pgqueue.worker.settings import WorkerSettings
from pgqueue.worker.slots import Slots

log = logging.getLogger("pgqueue.worker")


class Worker:
    """One worker process. The constructor checks the settings; `run` does the work."""

    def __init__(self, app: App, settings: WorkerSettings | None = None) -> None:
        settings = settings or WorkerSettings()
        queues = check_served_queues(settings.queues, settings.shares, settings.limits)
        self._app = app
        self._settings = settings
        self._slots = Slots(settings.concurrency, queues, settings.limits, settings.shares)
        self._served = Served(queues, tuple(app.tasks.names()))
        self._stopping = asyncio.Event()
        self._cutting = asyncio.Event()
        self.started = asyncio.Event()  # its row is there, and it may claim
        self._running: RunningWorker | None = None
        self._failure: PgqueueError | None = None
        self._prepared = False
        self.health_address: str | None = None  # where its probe answers, for its row
        self.asked_to_stop = False  # by its row, and not by a signal
        self.out_of_jobs = False  # the end of a burst
        limits = (settings.max_jobs_per_child, settings.max_memory_per_child)
        starters, stoppers = tuple(app.child_starters), tuple(app.child_stoppers)
        in_child = ChildSettings(*limits, on_start=starters, on_stop=stoppers, hooks=app.attempt_hooks)
        self._children = Children(app.tasks, in_child, partial(Completion, app, pooled=False))

    def prepare(self) -> None:
        """Start the fork server, if a task runs in a child process: best before there is an event loop."""
        if not self._prepared and any(spec.isolation == "process" for spec in self._app.tasks):
            self._children.start()
        self._prepared = True

    def stop(self) -> None:
        """First call: claim no more jobs and finish those that run. Second call: cancel those and release them."""
        if self._stopping.is_set():
            self._cutting.set()
        self.finish()

    def finish(self) -> None:
        """Claim no more jobs and finish those that run, also where an operator has stopped the worker before."""
        self._stopping.set()

    @property
    def stops(self) -> bool:
        """Whether it was told to stop, or cannot go on."""
        return self._stopping.is_set()

    def quiet(self) -> None:
        """Claim no more jobs, but go on running."""
        if self._running is not None:
            self._running.be_quiet(True)
            log.info("quiet: no more jobs are taken")

    def resume(self) -> None:
        """Claim jobs again after `quiet`."""
        if self._running is not None:
            self._running.be_quiet(False)
            log.info("resumed: jobs are taken again")

    def dump(self) -> None:
        """Write what every thread, every task and every job is doing to stderr and the log."""
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        for running in self._slots.running:
            if running.task is not None:
                running.task.set_name(f"pgqueue job {running.job.id}")
        for task in asyncio.all_tasks():
            task.print_stack(limit=5)
        log.info("running jobs: %s", ", ".join(str(r.job.id) for r in self._slots.running) or "none")

    def health(self) -> Health:
        """How this worker is: live while it works, ready while it reaches the database and claims."""
        if self._running is None or self._stopping.is_set():
            return Health(live=True, ready=False)
        return self._running.health()

    def reading(self) -> ProcessReading | None:
        """What this worker has done since its start; None before it. Call it on the event loop."""
        return None if self._running is None else self._running.reading()

    async def run(self) -> bool:
        """Work until stopped. Returns whether all jobs have ended; False if some were left behind in their threads.

        Raises DatabaseUnreachable or NotMigrated if it cannot start, PgqueueError if it has lost its fork server.
        """
        self.prepare()
        for hook in self._app.worker_starters:
            await _call(hook)
        core = WorkerCore.of(self._app, self._settings, self._served, self._slots, self.health_address)
        self._running = running = RunningWorker(core, self._children, self._fail, self._follow)
        if self._settings.burst:
            running.end_without_jobs(self._end_burst)
        for hook in self._app.own_work_starters:  # jobs run in the context from before
            hook()
        await running.start()
        self.started.set()
        try:
            await running.declare_rules(self._stopping)
            await run_duties(running.duties, self._stopping, grace_seconds=2.0)
        finally:
            self._stopping.set()
            await running.end(self._cutting)
            for hook in self._app.worker_stoppers:
                try:
                    await _call(hook)
                except Exception as error:
                    log.error("a hook on the worker's stop raised %s", type(error).__name__, exc_info=error)
        if self._failure is not None and not self._slots.running:
            raise self._failure
        return not self._slots.running

    def _follow(self, request: Request) -> None:
        """Do what an operator asks of this worker."""
        log.info("%s asks this worker to %s", request.by, request.what)
        match request.what:
            case "quiet":
                self.quiet()
            case "resume":
                self.resume()
            case "stop":
                self.asked_to_stop = True
                self.stop()

    def _end_burst(self) -> None:
        log.info("nothing is due any more: the burst ends")
        self.out_of_jobs = True
        self.finish()

    def _fail(self, error: PgqueueError) -> None:
        """Stop because of an error, which `run` raises: whoever restarts failed processes starts another worker."""
        self._failure = error
        self._stopping.set()


async def _call(hook: Hook) -> None:
    answer = hook()
    if inspect.isawaitable(answer):
        await answer
