"""Celery's signals. Receivers run where the task runs; an error of one is logged and changes nothing.

The signals of tasks are sent in the thread, event loop or child process of the task, those of publishing in the caller,
those of workers in the worker. A child process that is killed, for its time limit for example, sends none: the worker
sends `task_failure` for it.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar, overload

from pgqueue.errors import InvalidOption

log = logging.getLogger("pgqueue.celery")
Receiver = TypeVar("Receiver", bound=Callable[..., Any])


class Signal:
    """A signal: functions connect to it, with or without a sender, and are called with keywords."""

    def __init__(self, name: str, instead: str | None = None) -> None:
        self.name = name
        self.instead = instead
        self._receivers: list[tuple[Any, Callable[..., Any], object]] = []

    def __repr__(self) -> str:
        return f"<Signal: {self.name}>"

    @overload
    def connect(self, receiver: Receiver, /) -> Receiver: ...
    @overload
    def connect(
        self, receiver: None = None, /, *, sender: Any = None, weak: bool = True, dispatch_uid: object = None
    ) -> Callable[[Receiver], Receiver]: ...
    @overload
    def connect(
        self, receiver: Receiver, /, *, sender: Any = None, weak: bool = True, dispatch_uid: object = None
    ) -> Receiver: ...
    def connect(
        self, receiver: Any = None, /, *, sender: Any = None, weak: bool = True, dispatch_uid: object = None
    ) -> Any:
        """Connect a receiver: `@signal.connect`, `@signal.connect(sender=task)`, `signal.connect(function)`.

        `sender` is a task, or the name of one. A receiver is kept, `weak` or not. With the `dispatch_uid` of one that
        is connected it takes that one's place. Raises InvalidOption for a signal that is never sent here."""
        if self.instead is not None:
            raise InvalidOption(f"signal {self.name} is never sent here: use {self.instead}")

        def add(receiver: Receiver) -> Receiver:
            uid = dispatch_uid or (receiver, _sender_key(sender))
            self._receivers = [known for known in self._receivers if known[2] != uid]
            self._receivers.append((_sender_key(sender), receiver, uid))
            return receiver

        return add if receiver is None else add(receiver)

    def disconnect(self, receiver: Any = None, sender: Any = None, dispatch_uid: object = None) -> bool:
        """Disconnect a receiver; return whether it was connected."""
        uid = dispatch_uid or (receiver, _sender_key(sender))
        left = [known for known in self._receivers if known[2] != uid]
        found, self._receivers = len(left) < len(self._receivers), left
        return found

    @property
    def has_receivers(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._receivers)

    def send(self, sender: Any, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Call the receivers of a sender; return what each has returned, or the error that it raised."""
        answers: list[tuple[Callable[..., Any], Any]] = []
        for wanted, receiver, _ in self._receivers:
            if wanted is not None and wanted != _sender_key(sender):
                continue
            try:
                answers.append((receiver, receiver(signal=self, sender=sender, **named)))
            except Exception as error:
                log.error("a receiver of %s raised %s", self.name, type(error).__name__, exc_info=error)
                answers.append((receiver, error))
        return answers


def _sender_key(sender: Any) -> Any:
    return getattr(sender, "name", sender)


before_task_publish = Signal("before_task_publish")
after_task_publish = Signal("after_task_publish")
task_prerun = Signal("task_prerun")
task_postrun = Signal("task_postrun")
task_success = Signal("task_success")
task_failure = Signal("task_failure")
task_retry = Signal("task_retry")
task_internal_error = Signal("task_internal_error", "the log of the worker, or @app.on(…) of the pgqueue app")
task_received = Signal("task_received", "@app.on(pgqueue.events.JobClaimed) of the pgqueue app")
task_revoked = Signal("task_revoked", "@app.on(pgqueue.events.WaitingJobCancelled), JobExpired and JobCancelled")
task_rejected = Signal("task_rejected", "@app.on_dead of the pgqueue app")
task_unknown = Signal(
    "task_unknown", "the count of parked jobs in `pgqueue status`: a worker that knows the task runs them"
)
worker_init = Signal("worker_init")
worker_ready = Signal("worker_ready")
worker_shutting_down = Signal("worker_shutting_down", "worker_shutdown, after the last job")
worker_shutdown = Signal("worker_shutdown")
worker_process_init = Signal("worker_process_init")
worker_process_shutdown = Signal("worker_process_shutdown")
celeryd_init = Signal("celeryd_init", "worker_init")
celeryd_after_setup = Signal("celeryd_after_setup", "worker_init")
beat_init = Signal("beat_init", "the module with the app: it is imported where `pgqueue schedule` starts")
beat_embedded_init = Signal("beat_embedded_init", "the module with the app: it is imported where the worker starts")
heartbeat_sent = Signal("heartbeat_sent", "the table pgqueue.worker: each worker's last heartbeat is there")
eventlet_pool_started = Signal("eventlet_pool_started", "worker_init: tasks run in threads")
setup_logging = Signal("setup_logging", "pgqueue work --log-format, and logging of your own in worker_init")
after_setup_logger = Signal("after_setup_logger", "worker_init")
after_setup_task_logger = Signal("after_setup_task_logger", "worker_init")
import_modules = Signal("import_modules", "app.autodiscover_tasks(…) or conf.imports")
user_preload_options = Signal("user_preload_options", "the options of `pgqueue work`")
