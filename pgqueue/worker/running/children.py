"""Child processes that run tasks: a job goes in, its outcome comes out, and the death of a child ends one attempt.

This is the worker's half. The forked processes run `fork_server.py` and `child.py`.
"""

import asyncio
import itertools
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import Any, get_args

from pydantic import TypeAdapter

from pgqueue.error_info import ErrorInfo
from pgqueue.errors import PgqueueError
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.outcome import Outcome, Raised, Unstarted
from pgqueue.jobs.verdicts import TimedOut
from pgqueue.process.duty import hide
from pgqueue.process.supervisor import how_it_ended
from pgqueue.process.system import needs_fork
from pgqueue.tasks.context import Signals
from pgqueue.tasks.registry import Tasks
from pgqueue.worker.running.channel import CHUNK, Inbox, Message, pack
from pgqueue.worker.running.child import ChildSettings, MakeCompleter, serve
from pgqueue.worker.running.fork_server import start_fork_server

__all__ = ["ChildSettings", "Children"]

log = logging.getLogger("pgqueue.worker")
GRACE = 5.0  # seconds that the fork server, or an answer on its way, is waited for
_OUTCOMES: dict[str, TypeAdapter[Outcome]] = {kind.__name__: TypeAdapter(kind) for kind in get_args(Outcome)}


class Children:
    """Child processes that run tasks, one job at a time each. The constructor does no I/O.

    A child is forked when a job comes and none is idle. Children know the tasks that were registered when `start` was
    called. All of them end with this process, however it ends. `completer` is called in the child, for
    `ctx.transaction()`.
    """

    def __init__(
        self, tasks: Tasks, settings: ChildSettings | None = None, completer: MakeCompleter | None = None
    ) -> None:
        self._tasks = tasks
        self._settings = settings or ChildSettings()
        self._work = partial(serve, tasks, self._settings, completer)
        self._numbers = itertools.count(1)
        self._children: dict[int, _Child] = {}
        self._idle: list[_Child] = []
        self._runs: set[asyncio.Future[None]] = set()
        self._inbox = Inbox()
        self._refusal: str | None = "child processes were not started: call start() before the event loop runs"
        self._started = False
        self._fork_server = 0
        self._gone: asyncio.Future[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether `run` can be called: started, not closed, and the fork server has not died."""
        return self._refusal is None

    def start(self) -> None:
        """Fork the fork server, which copies this process: call it before there are threads, event loop, connections.

        Raises ConfigError where processes cannot be forked.
        """
        if self._started:
            raise PgqueueError("child processes can be started once")
        names = ", ".join(spec.name for spec in self._tasks if spec.isolation == "process")
        needs_fork(f"tasks with isolation='process' ({names})", "leave isolation out, so that they run in threads")
        if others := [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]:
            log.warning("threads run while child processes start, and a lock they hold stays held there: %s", others)
        self._fork_server, self._control = start_fork_server(self._work)
        self._started = True
        self._control.setblocking(False)
        self._refusal = None

    async def run(self, job: ClaimedJob, timeout: float | None = None, signals: Signals | None = None) -> Outcome:
        """Run a job in a child to its end, at most `timeout` seconds. No child runs it any more afterwards.

        The child gets the deadline of `signals`. Their host gets the job's progress, and `completed` is set if the task
        has completed the job itself.
        When cancelled, this stops the child and raises CancelledError. It raises PgqueueError, and the job has not
        begun, if no child can run: they were not started, are closed, or the fork server died.
        """
        try:
            child = self._take_idle() or self._fork()
        except OSError as error:
            return _died(f"no child process could be made: {error}")
        with self._in_flight(child):
            try:
                async with asyncio.timeout(timeout):
                    return await self._attempt(child, job, signals or Signals())
            except TimeoutError:
                await self._stop(child)
                return self._timed_out(job, f"the job ran longer than {timeout:g} s: {child.ended.result()}")
            except BaseException:
                await self._stop(child)
                raise

    def kill_all(self) -> None:
        """Kill all children now. The outcome of their jobs is Unstarted."""
        self._retire_idle()
        for child in self._children.values():
            child.cut_off = True
            self._signal(child, signal.SIGKILL)

    async def close(self) -> None:
        """Stop the children and the fork server, and wait until they have ended.

        The outcome of their jobs is Unstarted. It takes little more than `kill_after` seconds, whatever the tasks do. A
        second call does nothing.
        """
        if not self._fork_server:
            return
        self._attach()
        self._refusal = "child processes are closed: this worker stops"
        idle = [child.ended for child in self._idle]
        self._retire_idle()
        if idle and self._settings.on_stop:
            await asyncio.wait(idle, timeout=self._settings.kill_after)
        for child in self._children.values():
            child.cut_off = True
        try:
            ending = [hide(asyncio.create_task(self._stop(child))) for child in self._children.values()]
            if ending:
                await asyncio.wait(ending, timeout=self._settings.kill_after + GRACE)
            await self._end_fork_server()
            if self._runs:
                await asyncio.wait(self._runs)
        finally:
            self._kill_fork_server()

    def _attach(self) -> None:
        """Read what the fork server has sent, and from the first call on whenever it sends something."""
        if self._gone is None and self._fork_server:
            loop = asyncio.get_running_loop()
            self._gone = loop.create_future()
            loop.add_reader(self._control, self._read_fork_server)
        if self._fork_server:
            self._read_fork_server()

    def _check(self) -> None:
        self._attach()
        if self._refusal is not None:
            raise PgqueueError(self._refusal)

    def _take_idle(self) -> "_Child | None":
        self._check()
        while self._idle:
            child = self._idle.pop()
            if child.is_quiet():
                return child
            child.close()
        return None

    def _fork(self) -> "_Child":
        near, far = socket.socketpair()
        child = _Child(next(self._numbers), near, far)
        try:
            self._request({"spawn": child.number}, far)
        except OSError:
            child.end("it was not forked")
            child.close()
            self._check()  # the fork server may just have died
            raise
        self._children[child.number] = child
        return child

    @contextmanager
    def _in_flight(self, child: "_Child") -> Iterator[None]:
        run = asyncio.get_running_loop().create_future()
        self._runs.add(run)
        child.reusable = False
        try:
            yield
        finally:
            if child.reusable and self.usable and not child.ended.done():
                self._idle.append(child)
            else:
                child.close()
            self._runs.discard(run)
            run.set_result(None)

    async def _attempt(self, child: "_Child", job: ClaimedJob, signals: Signals) -> Outcome:
        def on_progress(text: str) -> None:
            if signals.host is not None:
                signals.host.note_progress(job, text)

        answer = await child.ask({"job": asdict(job), "deadline": signals.deadline, "soft": signals.soft}, on_progress)
        if answer is None:
            why = await child.ended
            return Unstarted() if child.cut_off else _died(why)
        outcome = _OUTCOMES[answer["kind"]].validate_python(answer["outcome"])
        child.reusable = not (answer["leaves"] or child.cut_off)
        signals.completed = answer["completed"]
        job.headers, job.attempt = answer["headers"], answer["attempt"]  # recorded steps change them
        return outcome

    def _timed_out(self, job: ClaimedJob, message: str) -> Raised:
        spec = self._tasks.get(job.task)
        permanent = spec is not None and issubclass(TimedOut, spec.no_retry_on)
        return Raised(ErrorInfo("pgqueue.TimedOut", message), permanent, "timeout")

    async def _stop(self, child: "_Child") -> None:
        """End a child and wait until it has ended. It is ended even if the wait is cancelled."""
        if child.stopping is None:
            child.stopping = hide(asyncio.create_task(self._terminate(child)))
        await asyncio.shield(child.stopping)

    async def _terminate(self, child: "_Child") -> None:
        self._signal(child, signal.SIGTERM)
        await asyncio.wait([child.ended], timeout=self._settings.kill_after)
        if not child.ended.done():
            self._signal(child, signal.SIGKILL)
            await asyncio.wait([child.ended])

    def _signal(self, child: "_Child", number: signal.Signals) -> None:
        with suppress(OSError):  # no fork server, no child
            self._request({"signal": int(number), "child": child.number})

    def _request(self, message: Message, *channel: socket.socket) -> None:
        data = pack(message)
        try:
            if channel:
                sent = socket.send_fds(self._control, [data], [end.fileno() for end in channel])
            else:
                sent = self._control.send(data)
        except BlockingIOError:
            sent = 0
        if sent != len(data):  # it reads no more; nothing else could stop its children
            self._kill_fork_server()
            raise BrokenPipeError("the fork server does not answer")

    def _read_fork_server(self) -> None:
        try:
            data = self._control.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._fork_server_ended()
        for message in self._inbox.feed(data):
            match message:
                case {"forked": int(number), "pid": int(pid)}:
                    self._children[number].forked(pid)
                case {"not_forked": int(number), "why": str(why)}:
                    self._forget(number, f"no child process could be made: {why}")
                case {"died": int(number), "status": int(status)}:
                    child = self._children[number]
                    self._forget(number, f"the child process {_ending(status)} (pid {child.pid}) before the job ended")

    def _forget(self, number: int, why: str) -> None:
        child = self._children.pop(number)
        child.end(why)
        if child in self._idle:
            self._idle.remove(child)
            child.close()

    def _fork_server_ended(self) -> None:
        pid, self._fork_server = self._fork_server, 0
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        how = "ended"
        with suppress(ChildProcessError):  # other code in this process may have waited for all children
            how = _ending(os.waitpid(pid, 0)[1])
        if self._refusal is None:
            self._refusal = f"the fork server of the child processes {how} (pid {pid}): restart this worker"
            log.error("%s", self._refusal)
        self._retire_idle()
        for number, child in list(self._children.items()):
            child.kill_orphan()
            self._forget(
                number, f"the child process (pid {child.pid}) ended with its fork server, which {how} (pid {pid})"
            )
        if self._gone is not None:
            self._gone.set_result(None)

    def _retire_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _end_fork_server(self) -> None:
        if self._gone is None or self._gone.done():
            return
        self._control.shutdown(socket.SHUT_WR)
        await asyncio.wait([self._gone], timeout=GRACE)
        self._kill_fork_server()
        await asyncio.wait([self._gone])

    def _kill_fork_server(self) -> None:
        if self._fork_server:
            with suppress(ProcessLookupError):
                os.kill(self._fork_server, signal.SIGKILL)


class _Child:
    """A child as the worker sees it. `ended` says how it ended, once the fork server has reported that."""

    def __init__(self, number: int, near: socket.socket, far: socket.socket) -> None:
        near.setblocking(False)
        self.number = number
        self.pid: int | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stopping: asyncio.Task[None] | None = None
        self.cut_off = False
        self.reusable = False
        self._near = near
        self._far = far  # open until it has arrived: macOS may lose a descriptor that is closed on its way

    def forked(self, pid: int) -> None:
        """Note its pid. Its end of the channel has arrived, so ours is closed."""
        self.pid = pid
        self._far.close()

    def end(self, why: str) -> None:
        """Note that it has ended, and why."""
        self._far.close()
        self.ended.set_result(why)

    def close(self) -> None:
        """Close the channel: an idle child ends then."""
        self._near.close()

    def is_quiet(self) -> bool:
        """Whether it waits for a job. A child that was killed while idle has closed its end."""
        try:
            self._near.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self.ended.done()
        except OSError:
            pass
        return False

    def kill_orphan(self) -> None:
        """Kill a child that its dead fork server has left, with what its task started.

        On Linux the kernel has killed the child, but not what its task started.
        """
        if self.pid is not None:
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    async def ask(self, message: Message, on_progress: Callable[[str], None]) -> Message | None:
        """Send a message, pass progress on, return the answer; None if the child ended without one."""
        exchange = hide(asyncio.create_task(self._exchange(pack(message), on_progress)))
        ends: list[asyncio.Future[Any]] = [exchange, self.ended]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            # A child that died may have sent its answer. Its end of file comes, unless the task gave its socket away.
            await asyncio.wait([exchange], timeout=GRACE)
            return exchange.result() if exchange.done() else None
        finally:
            exchange.cancel()
            await asyncio.wait([exchange])

    async def _exchange(self, data: bytes, on_progress: Callable[[str], None]) -> Message | None:
        loop, inbox = asyncio.get_running_loop(), Inbox()
        with suppress(OSError):
            await loop.sock_sendall(self._near, data)
            while chunk := await loop.sock_recv(self._near, CHUNK):
                for message in inbox.feed(chunk):
                    if "progress" not in message:
                        return message
                    on_progress(message["progress"])
        return None


def _died(message: str) -> Raised:
    return Raised(ErrorInfo("pgqueue.ChildDied", message))


def _ending(status: int) -> str:
    return how_it_ended(os.waitstatus_to_exitcode(status))
