"""A child process: it takes jobs from its worker, runs them, and sends their outcomes."""

import asyncio
import inspect
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import psycopg
from pydantic import TypeAdapter

from pgqueue.error_info import ErrorInfo
from pgqueue.errors import ConfigError, InvalidOption
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.outcome import Outcome, Raised
from pgqueue.jobs.verdicts import SoftTimeout
from pgqueue.process.memory import resident_bytes
from pgqueue.tasks.context import Context, Signals, current_context
from pgqueue.tasks.hooks import AttemptHooks
from pgqueue.tasks.registry import Tasks
from pgqueue.tasks.spec import TaskSpec
from pgqueue.worker.running.calling import (
    arguments_of,
    caught,
    limited,
    outcome_of_error,
    outcome_of_value,
    passed,
    unknown_task,
)
from pgqueue.worker.running.channel import CHUNK, Inbox, Message, flush, pack
from pgqueue.worker.running.completion import Completion
from pgqueue.worker.running.step_host import DirectSteps

MakeCompleter: TypeAlias = Callable[[ClaimedJob, Signals], Completion]
PROGRESS_SECONDS = 0.1  # between two messages about the progress of a job
_JOB = TypeAdapter(ClaimedJob)


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """How children run.

    A child is replaced after `max_jobs` jobs, or when its resident memory after a job is above `max_memory_mib` (its
    peak, where the system does not know the present one). A child that is stopped gets SIGTERM, and SIGKILL
    `kill_after` seconds later. `on_start` runs in each child before its first job; if it raises, that attempt fails
    with the error. `on_stop` runs in a child that ends in order. `hooks` are around the run of each task.
    """

    max_jobs: int | None = None
    max_memory_mib: int | None = None
    kill_after: float = 5.0
    on_start: tuple[Callable[[], None], ...] = ()
    on_stop: tuple[Callable[[], None], ...] = ()
    hooks: AttemptHooks = field(default_factory=AttemptHooks)

    def __post_init__(self) -> None:
        for name, value in (("max_jobs", self.max_jobs), ("max_memory_mib", self.max_memory_mib)):
            if value is not None and value < 1:
                raise InvalidOption(f"{name} {value} cannot be used: give 1 or more, or None for no limit")
        if not self.kill_after >= 0:
            raise InvalidOption(f"kill_after {self.kill_after} cannot be used: give 0 seconds or more")


def serve(tasks: Tasks, settings: ChildSettings, completer: MakeCompleter | None, channel: socket.socket) -> None:
    """Run the jobs that come over `channel`, one after the other, until it closes or the child has to be replaced."""
    pid = os.getpid()
    _serve(tasks, settings, completer, channel)
    if os.getpid() == pid:
        for hook in settings.on_stop:
            caught(hook)


def _serve(tasks: Tasks, settings: ChildSettings, completer: MakeCompleter | None, channel: socket.socket) -> None:
    pid, prepared = os.getpid(), False
    for number, message in enumerate(_messages(channel), 1):
        job = _JOB.validate_python(message["job"])
        host = ChildHost(channel, completer, tasks)
        signals = Signals(message["deadline"], message["soft"], host=host)
        refusal, prepared = None if prepared else _prepare(settings), True
        outcome = refusal or _attempt(tasks, job, signals, settings.hooks)
        if os.getpid() != pid:
            return  # this is a process that the task forked and did not end
        flush()
        leaves = refusal is not None or number == settings.max_jobs or _too_big(settings.max_memory_mib)
        answer = {"kind": type(outcome).__name__, "outcome": asdict(outcome), "leaves": leaves}
        answer |= {"completed": signals.completed, "headers": job.headers, "attempt": job.attempt}
        host.answer(answer)
        if leaves:
            return


class ChildHost:
    """The host of a job in a child: sends its progress, a few times a second at most, and then its outcome.

    After the outcome it sends nothing more, though threads of the task may still call it.
    """

    def __init__(self, channel: socket.socket, completer: MakeCompleter | None, tasks: Tasks) -> None:
        self.tasks = tasks
        self._channel: socket.socket | None = channel
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._sent_at = 0.0  # by the monotonic clock: the last progress
        self._completer = completer

    def completer(self, job: ClaimedJob, signals: Signals) -> Completion:
        """Return the completion behind the job's `ctx.transaction()`."""
        if self._completer is None:
            raise ConfigError("ctx.transaction() works only in a job that a worker runs")
        return self._completer(job, signals)

    def step_host(self, job: ClaimedJob, signals: Signals) -> DirectSteps:
        """Return what keeps the steps of the job."""
        completion = self.completer(job, signals)
        return DirectSteps(completion.app, job, completion, pooled=completion.pooled)

    def note_progress(self, job: ClaimedJob, text: str) -> None:
        """Send how far the job is."""
        with self._lock:
            now = time.monotonic()
            if self._channel is not None and os.getpid() == self._pid and now - self._sent_at >= PROGRESS_SECONDS:
                self._sent_at = now
                self._channel.sendall(pack({"progress": text}))

    def answer(self, message: Message) -> None:
        """Send the outcome."""
        with self._lock:
            channel, self._channel = self._channel, None
            if channel is not None:
                channel.sendall(pack(message))


def _messages(channel: socket.socket) -> Iterator[Message]:
    inbox = Inbox()
    while data := channel.recv(CHUNK):
        yield from inbox.feed(data)


def _prepare(settings: ChildSettings) -> Raised | None:
    for hook in settings.on_start:
        _, error = caught(hook)
        if error is not None:
            return Raised(ErrorInfo.of(error))
    return None


def _attempt(tasks: Tasks, job: ClaimedJob, signals: Signals, hooks: AttemptHooks) -> Outcome:
    spec = tasks.get(job.task)
    if spec is None:
        return unknown_task(job)
    arguments = arguments_of(spec, job)
    if not isinstance(arguments, dict):
        return arguments
    context = Context(job, signals)
    token = current_context.set(context)
    attempt = hooks.begin(context) if hooks else None
    value, raised = _call(spec, arguments, context)
    outcome = outcome_of_value(spec, value) if raised is None else outcome_of_error(spec, raised)
    if attempt is not None:
        attempt.close(outcome, raised)
    current_context.reset(token)
    return outcome


def _call(spec: TaskSpec, arguments: dict[str, Any], context: Context) -> tuple[Any, BaseException | None]:
    value, raised = caught(lambda: _limited(spec, arguments, context))
    if raised is not None or not inspect.isawaitable(value):
        return value, raised if raised is None else _own(raised)
    answer, broken = caught(lambda: asyncio.run(limited(lambda: value, spec.soft_timeout)))
    return (None, broken) if broken else answer


def _limited(spec: TaskSpec, arguments: dict[str, Any], context: Context) -> Any:
    """Call the task; SoftTimeout is raised in it, wherever it is, when its soft limit has passed."""
    limit = spec.soft_timeout
    if limit is None:
        return spec.call(arguments, context)

    def interrupt(*_: object) -> None:
        raise SoftTimeout(passed(limit))

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        return spec.call(arguments, context)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _own(raised: BaseException) -> BaseException:
    """Return the soft limit in the place of what it has broken off: a query, whose connection cannot roll back. What
    the task itself raises after its soft limit stays."""
    cause = raised.__context__
    return cause if isinstance(cause, SoftTimeout) and isinstance(raised, psycopg.Error) else raised


def _too_big(limit_mib: int | None) -> bool:
    return limit_mib is not None and (resident_bytes() or 0) > limit_mib * 1024 * 1024
