"""The supervisor: several workers under one parent, restarted when they die, and stopped together."""

import asyncio
import json
import logging
import os
import signal
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from pgqueue.config import DEATHS, WORKER_ID
from pgqueue.timing import Backoff, monotonic

log = logging.getLogger("pgqueue.supervisor")
PARENT_FD = "PGQUEUE_PARENT_FD"
USAGE, CONFIGURATION = 2, 78
STOPPED = 77  # the status of a child that an operator has stopped by its row, or that has ended its burst; internal
DEATHS_KEPT = 20  # each new child reports all of them, for an earlier one may have died before it could
LIVED_SECONDS = 30.0  # after which a child that dies is restarted without a growing delay


class Supervisor:
    """Runs `commands`, each in a child, until stopped.

    A child that dies is started again, with a delay that grows while it keeps dying. A child that cannot run at all
    (wrong usage, configuration, missing migration) stops all of them, and `exit_code` is its status. One that an
    operator has stopped (`pgqueue workers stop`), or that has ended its burst, is not started again. Children hold the
    read end of a pipe whose other end only the parent has: when the parent is killed they read its end and stop in
    order. The parent gives each child its worker id, and gives its successor the id and the way it ended: so the jobs
    of a worker that died are rescued at once, and record the signal.

    `names` are those of the children in the log. Each child inherits the descriptors in `keeps`, and `environ` on top
    of the parent's environment.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        *,
        names: Sequence[str] | None = None,
        environ: Mapping[str, str] | None = None,
        keeps: Sequence[int] = (),
    ) -> None:
        self._commands = commands
        self._names = names or [f"worker process {number}" for number in range(len(commands))]
        self._environ = environ or {}
        self._keeps = tuple(keeps)
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self.started = asyncio.Event()
        self.exit_code = 0

    @property
    def stops(self) -> bool:
        """Whether it was told to stop, or no child can run."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Send SIGTERM to the children: the first lets their jobs end, each further one is harder."""
        self._stopping.set()
        self.forward("SIGTERM")

    def forward(self, name: str) -> None:
        """Send a signal to every child."""
        number = signal.Signals[name]
        for child in self._children.values():
            with suppress(ProcessLookupError):
                child.send_signal(number)

    async def run(self) -> bool:
        """Run the children until stopped; returns whether all of them ended well."""
        read_end, write_end = os.pipe()
        self.started.set()
        try:
            ends = await asyncio.gather(*(self._keep(number, read_end) for number in range(len(self._commands))))
        finally:
            os.close(write_end)
            os.close(read_end)
        return all(ends)

    async def _keep(self, number: int, parent_fd: int) -> bool:
        """Keep one child running until stopped; return whether it ended well."""
        name, backoff, deaths = self._names[number], Backoff(), deque[tuple[str, str]](maxlen=DEATHS_KEPT)
        while True:
            started, worker = monotonic(), str(uuid.uuid4())
            given = {PARENT_FD: str(parent_fd), WORKER_ID: worker, DEATHS: json.dumps(dict(deaths))}
            child = await asyncio.create_subprocess_exec(
                *self._commands[number],
                pass_fds=(parent_fd, *self._keeps),
                env=os.environ | self._environ | given,
                process_group=0,  # a Ctrl-C reaches the parent alone, which passes one signal on
            )
            self._children[number] = child
            log.info("%s started (pid %d)", name, child.pid)
            if self._stopping.is_set():
                child.terminate()
            status = await child.wait()
            del self._children[number]
            if self._stopping.is_set():
                return status in (0, -signal.SIGTERM)  # a child whose Python still starts dies of the signal
            if status == STOPPED:
                log.info("%s (pid %d) was stopped by an operator, or out of jobs, and stays so", name, child.pid)
                return True
            if status in (USAGE, CONFIGURATION):
                self.exit_code = status
                self.stop()
                return False
            if monotonic() - started > LIVED_SECONDS:
                backoff.reset()
            deaths.append((worker, how_it_ended(status)))
            delay = backoff.next()
            log.error("%s (pid %d) %s; again in %.1f s", name, child.pid, how_it_ended(status), delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            if self._stopping.is_set():
                return True


def how_it_ended(status: int) -> str:
    """Say how a process ended, from its status as subprocess gives it: negative if a signal killed it."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal: most of them have no name
        return f"was killed by signal {-status}"


def take_parent() -> int | None:
    """In a child of a supervisor: return the read end of the pipe to it, and keep it from this process's own children.

    None in a process without a supervisor. Call it before user code can start processes.
    """
    given = os.environ.pop(PARENT_FD, None)
    if given is None:
        return None
    os.set_inheritable(int(given), False)
    return int(given)


def follow(parent: int, on_orphaned: Callable[[], None]) -> None:
    """Call `on_orphaned` when the supervisor has ended. `parent` comes from `take_parent`."""
    loop = asyncio.get_running_loop()

    def at_end() -> None:
        loop.remove_reader(parent)
        on_orphaned()

    loop.add_reader(parent, at_end)
