"""Counters and times by StatsD: `pgqueue.statsd.instrument(app)`, for Datadog's agent, Telegraf and Graphite.

Each count is one datagram that nobody waits for: without a server it is lost, and no job notices. Names and tags are
those that Celery's users send from its signals, so `instrument(app, prefix="celery")` goes on with their charts.
"""

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from pgqueue.app import App
from pgqueue.errors import InvalidOption
from pgqueue.events import (
    JobCancelled,
    JobDeadLettered,
    JobEvent,
    JobExpired,
    JobRescued,
    JobRetried,
    JobSnoozed,
    JobStarted,
    JobSucceeded,
    WaitingJobCancelled,
)
from pgqueue.tasks.context import Context
from pgqueue.tasks.hooks import AttemptEnd, OnAttemptEnd

__all__ = ["Tags", "instrument"]

log = logging.getLogger("pgqueue")
Tags: TypeAlias = Literal["datadog", "influx", "name"]
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_NO_TAG = re.compile(r"[^A-Za-z0-9_.\-/]")  # what separates names, values and tags in one of the forms, or is odd
_NO_NAME = re.compile(r"[^A-Za-z0-9_\-]")


def instrument(
    app: App, *, host: str = "127.0.0.1", port: int = 8125, prefix: str = "pgqueue", tags: Tags = "datadog"
) -> None:
    """Send what an app's workers do to a StatsD server, by UDP.

    Counters: `pgqueue.task.started`, `.completed` with the tag `state` at each end of a run, `.failed` for a dead
    letter, `.retried`, `.cancelled`, `.expired`; `pgqueue.job.rescued`. A time: `pgqueue.task.run`, in milliseconds.
    Tags are `task` and `queue`, never an id. `tags`: "datadog" writes them as its agent reads them, "influx" as
    Telegraf does, "name" puts task and state into the name, for servers that know no tags.

    Call it once, where the app is made. Raises InvalidOption.
    """
    if tags not in get_args(Tags):
        raise InvalidOption(f"tags={tags!r:.100} cannot be used: give one of {', '.join(get_args(Tags))}")
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix) or prefix.endswith("."):
        raise InvalidOption(f"prefix={prefix!r:.100} cannot be used: give a name such as pgqueue or shop.jobs")
    if not isinstance(host, str) or not host:
        raise InvalidOption(f"host={host!r:.100} cannot be used: give the name or address of the StatsD server")
    if type(port) is not int or not 1 <= port <= 65535:
        raise InvalidOption(f"port={port!r:.100} cannot be used: give 1 to 65535")
    counters = _Counters(app, _Sender(host, port), prefix, tags)
    for kind, count in counters.by_event().items():
        app.on(kind)(count)
    app.around_attempt(counters.around_attempt)
    app.on_worker_start(counters.sender.open)
    app.on_child_start(counters.sender.open)
    app.on_worker_stop(counters.sender.close)
    app.on_child_stop(counters.sender.close)


class _Sender:
    """Sends datagrams, from any thread and from processes that are forked. It never raises, and waits for no server;
    for the resolver it waits until the name of the server has been looked up once in this process."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._pid = 0

    def open(self) -> None:
        """Look the server up, before the first job runs."""
        self.send("")

    def close(self) -> None:
        """Close the socket. Sending again opens a new one."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def send(self, line: str) -> None:
        """Send a line, or lose it."""
        try:
            if self._socket is None or self._pid != os.getpid():
                self._connect()
            if line and self._socket is not None:
                self._socket.send(line.encode())
        except OSError as error:  # also where nobody listens: the system may say so at the next datagram
            log.debug("StatsD at %s:%d: a count was lost: %s", *self._address, type(error).__name__)

    def _connect(self) -> None:
        with self._lock:
            if self._socket is not None:
                if self._pid == os.getpid():
                    return
                self._socket.close()  # in this process alone: it is that of the one which has forked it
            family, kind, protocol, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            made = socket.socket(family, kind, protocol)
            made.setblocking(False)
            made.connect(address)
            self._socket, self._pid = made, os.getpid()


class _Counters:
    """What is counted, and as which line it is sent."""

    def __init__(self, app: App, sender: _Sender, prefix: str, tags: Tags) -> None:
        self.sender = sender
        self._tasks = app.tasks
        self._prefix = prefix
        self._tags = tags

    def by_event(self) -> Mapping[type, "_Count"]:
        """Return what counts each kind of event."""
        return {
            JobStarted: _Count(self, "task.started"),
            JobSucceeded: _Count(self, state="succeeded"),
            JobRetried: _Count(self, "task.retried", state="retried"),
            JobDeadLettered: _Count(self, "task.failed", state="failed"),
            JobSnoozed: _Count(self, state="snoozed"),
            JobCancelled: _Count(self, "task.cancelled", state="cancelled"),
            WaitingJobCancelled: _Count(self, "task.cancelled"),
            JobExpired: _Count(self, "task.expired"),
            JobRescued: _Count(self, "job.rescued"),
        }

    def around_attempt(self, context: Context) -> OnAttemptEnd:
        """Measure a run, where it runs."""
        began = time.perf_counter()

        def end(_: AttemptEnd) -> None:
            milliseconds = 1000 * (time.perf_counter() - began)
            self.send("task.run", f"{milliseconds:.3f}|ms", self.labels(context.task, context.queue))

        return end

    def labels(self, task: str, queue: str) -> dict[str, str]:
        """Return the tags of a task. One that this app has not registered is `unknown`, so that tags stay few."""
        return {"task": task if self._tasks.get(task) is not None else "unknown", "queue": queue}

    def send(self, name: str, value: str, labels: Mapping[str, str]) -> None:
        """Send one number with its tags."""
        full = f"{self._prefix}.{name}"
        if self._tags == "name":
            parts = [_NO_NAME.sub("_", text) for tag, text in labels.items() if tag != "queue"]
            self.sender.send(f"{'.'.join((full, *parts))}:{value}")
            return
        given = [(tag, _NO_TAG.sub("_", text)) for tag, text in labels.items()]
        if self._tags == "influx":
            self.sender.send(f"{full}{''.join(f',{tag}={text}' for tag, text in given)}:{value}")
        else:
            listed = ",".join(f"{tag}:{text}" for tag, text in given)
            self.sender.send(f"{full}:{value}|#{listed}" if listed else f"{full}:{value}")


class _Count:
    """A listener that counts its events: under a name of their own, and with a state among the ends of runs."""

    def __init__(self, counters: _Counters, *names: str, state: str | None = None) -> None:
        self._counters, self._names, self._state = counters, names, state

    def __call__(self, event: JobEvent | JobRescued) -> None:
        labels = self._counters.labels(event.task, event.queue) if isinstance(event, JobEvent) else {}
        for name in self._names:
            self._counters.send(name, "1|c", labels)
        if self._state is not None:
            self._counters.send("task.completed", "1|c", {**labels, "state": self._state})
