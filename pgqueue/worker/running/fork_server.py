"""The fork server: a process that forks children on request, reaps them, and kills them when it ends.

It is forked from the worker before that has threads, an event loop or connections, and stays single-threaded itself. So
forking stays safe, and each child has all that the app had registered by then. A child runs `serve` in `child.py`.

Requests come over a socket, the first with the child's own channel as a file descriptor: `{"spawn": 1}`,
`{"signal": 15, "child": 1}`. Answers: `{"forked": 1, "pid": 123}`, `{"not_forked": 1, "why": "…"}`, `{"died": 1,
"status": 9}`, the status as `waitpid` gives it. End of file means that the worker is gone.
"""

import ctypes
import gc
import os
import select
import signal
import socket
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn, TypeAlias

from pgqueue.worker.running.channel import Inbox, Message, flush, pack

Work: TypeAlias = Callable[[socket.socket], None]
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36


def start_fork_server(work: Work) -> tuple[int, socket.socket]:
    """Fork the fork server; return its pid and the socket to it. Each child runs `work(channel)`, then ends."""
    near, far = socket.socketpair()  # in this order: if stdin is closed, the fork server's end is not descriptor 0
    worker = os.getpid()
    flush()  # otherwise each child would write what is buffered now once more
    try:
        pid = _fork()
    except OSError:
        near.close()
        far.close()
        raise
    if pid == 0:
        _end_with(partial(_serve_forks, near, ForkServer(far, work, worker)))
    far.close()
    return pid, near


def _serve_forks(near: socket.socket, fork_server: "ForkServer") -> None:
    near.close()
    fork_server.run()


class ForkServer:
    """The loop of the fork server. It runs no user code."""

    def __init__(self, control: socket.socket, work: Work, worker: int) -> None:
        self._control = control
        self._work = work
        self._worker = worker
        self._collects_garbage = gc.isenabled()
        self._inbox = Inbox()
        self._channels: deque[int] = deque()
        self._children: dict[int, int] = {}
        self._worker_gone = False

    def run(self) -> None:
        """Serve until the worker closes the socket or dies. No child outlives this call."""
        self._detach()
        ready = select.poll()
        ready.register(self._control, select.POLLIN)
        ready.register(self._woken, select.POLLIN)
        try:
            # If another process has a copy of the worker's socket, the worker's end brings no end of file.
            while not self._worker_gone and os.getppid() == self._worker:
                found = {descriptor for descriptor, _ in ready.poll()}
                with suppress(BlockingIOError):
                    self._woken.recv(4096)
                while self._reap():
                    pass
                if self._control.fileno() in found:
                    self._read_requests()
        finally:
            self._kill_all()

    def _detach(self) -> None:
        """Make this process one that only its worker ends: signals to the worker's group or cgroup do not."""
        # Inherited objects are never collected here or in a child: a finalizer could write to the worker's sockets.
        gc.disable()
        gc.freeze()
        self._pid = os.getpid()
        self._control.setblocking(True)  # socket.setdefaulttimeout may have changed that
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin = os.fdopen(0, closefd=False)
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        _drop_handlers()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _wake_up)
        signal.signal(signal.SIGCHLD, _wake_up)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        _prctl(_PR_SET_NAME, b"pgqueue-forks")
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of tasks are reaped here, also where pid 1 does not
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _read_requests(self) -> None:
        try:
            data, channels, _, _ = socket.recv_fds(self._control, 4096, 64)
        except OSError:
            data, channels = b"", []
        self._channels.extend(channels)
        self._worker_gone = not data
        for message in self._inbox.feed(data):
            match message:
                case {"spawn": int(number)}:
                    self._spawn(number, socket.socket(fileno=self._channels.popleft()))
                case {"signal": int(which), "child": int(number)}:
                    self._signal(number, which)

    def _spawn(self, number: int, channel: socket.socket) -> None:
        os.set_inheritable(channel.fileno(), False)
        try:
            pid = _fork()
        except OSError as error:
            self._send({"not_forked": number, "why": str(error)})
        else:
            if pid == 0:
                _end_with(partial(self._become_child, channel))
            _lead_group(pid)
            self._children[pid] = number
            self._send({"forked": number, "pid": pid})
        finally:
            channel.close()

    def _become_child(self, channel: socket.socket) -> None:
        """Turn this process, just forked, into a child that keeps nothing of the fork server, and run `work`."""
        _lead_group(0)
        signal.set_wakeup_fd(-1)
        for inherited in (self._control, self._woken, self._waker):
            inherited.close()
        _drop_handlers()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it prints from a group of its own
        _prctl(_PR_SET_NAME, b"pgqueue-child")
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._pid:
            return
        if self._collects_garbage:
            gc.enable()
        channel.setblocking(True)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._work(channel)

    def _signal(self, number: int, which: int) -> None:
        # By number, not by pid: the pid of a child that was reaped may be another process's by now.
        for pid, own in self._children.items():
            if own == number:
                _signal_group(pid, which)

    def _reap(self) -> bool:
        """Reap one process that has ended, and kill the rest of its group. Returns whether there was one."""
        pid = -1
        try:
            if hasattr(os, "waitid"):  # not on macOS before Python 3.13
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                pid = ended.si_pid if ended else 0
            if pid in self._children:
                _signal_group(pid, signal.SIGKILL)  # before its pid is free for other processes
            pid, status = os.waitpid(pid, os.WNOHANG) if pid else (0, 0)
        except ChildProcessError:
            return False
        if pid in self._children:
            self._send({"died": self._children.pop(pid), "status": status})
        return pid != 0

    def _send(self, message: Message) -> None:
        try:
            self._control.sendall(pack(message))
        except OSError:
            self._worker_gone = True

    def _kill_all(self) -> None:
        for pid in self._children:
            _signal_group(pid, signal.SIGKILL)
        for pid in self._children:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _fork() -> int:
    """Fork with signals blocked: the new process unblocks them when it has dropped its parent's handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = -1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about threads: `Children.start` logs them
            pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _end_with(body: Callable[[], object]) -> NoReturn:
    """Run `body` and end the process, past all handlers and frames that it was forked with."""
    status = 1
    try:
        body()
        status = 0
    except BaseException:  # noqa: BLE001 - no error may reach the frames of the parent
        traceback.print_exc()
    finally:
        flush()
        os._exit(status)


def _lead_group(pid: int) -> None:
    # Both the child and its parent call this, because either may need the group first.
    with suppress(OSError):
        os.setpgid(pid, pid)


def _signal_group(pid: int, which: int) -> None:
    """Signal a child and what it started, by its process group."""
    with suppress(OSError):
        os.killpg(pid, which)
    if which == signal.SIGKILL:
        with suppress(OSError):
            os.kill(pid, which)


def _drop_handlers() -> None:
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def _wake_up(_number: int, _frame: object) -> None:
    """Do nothing: a handler that runs wakes the loop, by the wakeup descriptor."""


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value if isinstance(value, bytes) else ctypes.c_ulong(value), 0, 0, 0)
