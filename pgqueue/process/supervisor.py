"""The supervisor: several workers under one parent, restarted when they die, and stopped together."""

import asyncio
import json
import logging
import os
import signal
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from pgqueue.config import DEATHS, WORKER_ID
from pgqueue.timing import Backoff, monotonic

log = logging.getLogger("pgqueue.supervisor")
PARENT_FD = "PGQUEUE_PARENT_FD"
USAGE, CONFIGURATION = 2, 78
DEATHS_KEPT = 20  # each new child reports all of them, for an earlier one may have died before it could
LIVED_SECONDS = 30.0  # after which a child that dies is restarted without a growing delay


class Supervisor:
    """Runs `commands`, each in a child, until stopped.

    A child that dies is started again, with a delay that grows while it keeps dying. A child that cannot run at all
    (wrong usage, configuration, missing migration) stops all of them, and `exit_code` is its status. Children hold the
    read end of a pipe whose other end only the parent has: when the parent is killed they read its end and stop in
    order. The parent gives each child its worker id, and gives its successor the id and the way it ended: so the jobs
    of a worker that died are rescued at once, and record the signal.
    """

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._commands = commands
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self.exit_code = 0

    def stop(self) -> None:
        """Send SIGTERM to the children: the first lets their jobs end, each further one is harder."""
        self._stopping.set()
        self.forward(signal.SIGTERM)

    def forward(self, number: signal.Signals) -> None:
        """Send a signal to every child."""
        for child in self._children.values():
            with suppress(ProcessLookupError):
                child.send_signal(number)

    async def run(self) -> bool:
        """Run the children until stopped; returns whether all of them ended well."""
        read_end, write_end = os.pipe()
        try:
            ends = await asyncio.gather(*(self._keep(number, read_end) for number in range(len(self._commands))))
        finally:
            os.close(write_end)
            os.close(read_end)
        return all(ends)

    async def _keep(self, number: int, parent_fd: int) -> bool:
        """Keep one child running until stopped; return whether it ended well."""
        backoff, deaths = Backoff(), deque[tuple[str, str]](maxlen=DEATHS_KEPT)
        while True:
            started, worker = monotonic(), str(uuid.uuid4())
            given = {PARENT_FD: str(parent_fd), WORKER_ID: worker, DEATHS: json.dumps(dict(deaths))}
            child = await asyncio.create_subprocess_exec(
                *self._commands[number], pass_fds=(parent_fd,), env=os.environ | given
            )
            self._children[number] = child
            log.info("worker process %d started (pid %d)", number, child.pid)
            if self._stopping.is_set():
                child.terminate()
            status = await child.wait()
            del self._children[number]
            if self._stopping.is_set():
                return status == 0
            if status in (USAGE, CONFIGURATION):
                self.exit_code = status
                self.stop()
                return False
            if monotonic() - started > LIVED_SECONDS:
                backoff.reset()
            deaths.append((worker, _how(status)))
            delay = backoff.next()
            log.error("worker process %d (pid %d) %s; again in %.1f s", number, child.pid, _how(status), delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            if self._stopping.is_set():
                return True


def _how(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"


def follow_parent(on_orphaned: Callable[[], None]) -> None:
    """In a child: call `on_orphaned` when the supervisor has ended. Does nothing in a process without one."""
    given = os.environ.pop(PARENT_FD, None)
    if given is None:
        return
    loop, descriptor = asyncio.get_running_loop(), int(given)

    def at_end() -> None:
        loop.remove_reader(descriptor)
        on_orphaned()

    loop.add_reader(descriptor, at_end)
