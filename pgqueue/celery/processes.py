"""The signals of workers and child processes, and those of runs that could send none because they were killed."""

from typing import Any

from pgqueue.app import App
from pgqueue.celery import signals
from pgqueue.celery.exceptions import TimeLimitExceeded, WorkerLostError
from pgqueue.celery.parts import Adapter
from pgqueue.celery.running import ExceptionInfo, InChild
from pgqueue.events import JobDeadLettered

_KILLED = {"pgqueue.TimedOut": TimeLimitExceeded, "pgqueue.ChildDied": WorkerLostError}


def connect(app: App, adapter: Adapter) -> None:
    """Send the signals of the adapter where the app of pgqueue calls its hooks."""

    def begin_worker() -> None:
        for signal in (signals.worker_init, signals.worker_process_init, signals.worker_ready):
            signal.send(adapter)

    def end_worker() -> None:
        for signal in (signals.worker_process_shutdown, signals.worker_shutdown):
            signal.send(adapter)

    def begin_child() -> None:
        InChild.here = True
        signals.worker_process_init.send(adapter)

    def end_child() -> None:
        signals.worker_process_shutdown.send(adapter)

    def tell_of_killed(event: JobDeadLettered) -> None:
        kind: Any = WorkerLostError if event.reason == "crashed" else _KILLED.get(event.error_class or "")
        task = adapter.tasks.get(event.task)
        if kind is None or task is None:
            return
        error = kind(event.error.message if event.error else event.reason)
        signals.task_failure.send(
            task, task_id=str(event.job_id), exception=error, args=None, kwargs=None, traceback=None,
            einfo=ExceptionInfo(error),
        )  # fmt: skip

    app.on_worker_start(begin_worker)
    app.on_worker_stop(end_worker)
    app.on_child_start(begin_child)
    app.on_child_stop(end_child)
    app.on(JobDeadLettered)(tell_of_killed)
