"""The fork server, a process that forks children on request, reaps them, and takes them along when it ends; and a
child.

It is forked from the worker before that has threads, an event loop or connections, and stays single-threaded itself:
so forking stays safe, and everything the app had registered by then is simply there in each child. A child runs
`serve`.

Requests come over a socket, the child's own channel with them as a file descriptor: `{"spawn": 1}`,
`{"signal": 15, "child": 1}`. Answers: `{"born": 1, "pid": 123}`, `{"unborn": 1, "why": "…"}`, `{"died": 1,
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
    """Fork the fork server; return its pid and the socket to it. Each child runs `work(channel)`, and ends with it."""
    near, far = socket.socketpair()  # in this order: should stdin be closed, the fork server's end is not descriptor 0
    worker = os.getpid()
    flush()  # what is buffered now must not be written once more by each child
    try:
        pid = _fork()
    except OSError:
        near.close()
        far.close()
        raise
    if pid == 0:
        _end_with(partial(_nurse, near, ForkServer(far, work, worker)))
    far.close()
    return pid, near


def _nurse(near: socket.socket, fork_server: "ForkServer") -> None:
    near.close()
    fork_server.run()


class ForkServer:
    """The fork server's own loop. Runs nothing of the user's."""

    def __init__(self, control: socket.socket, work: Work, worker: int) -> None:
        self._control = control
        self._work = work
        self._worker = worker
        self._collects = gc.isenabled()
        self._inbox = Inbox()
        self._channels: deque[int] = deque()
        self._children: dict[int, int] = {}
        self._over = False

    def run(self) -> None:
        """Serve until the worker closes the socket or dies. No child outlives this."""
        self._settle()
        ready = select.poll()
        ready.register(self._control, select.POLLIN)
        ready.register(self._woken, select.POLLIN)
        try:
            # A worker that a process of its own has copied the socket from ends without an end of file.
            while not self._over and os.getppid() == self._worker:
                found = {descriptor for descriptor, _ in ready.poll()}
                with suppress(BlockingIOError):
                    self._woken.recv(4096)
                while self._reap():
                    pass
                if self._control.fileno() in found:
                    self._listen()
        finally:
            self._kill_all()

    def _settle(self) -> None:
        """Make this process one that only its worker ends: signals to the worker's group or cgroup do not."""
        # Nothing inherited is ever collected here or in a child: its finalizer could write to the worker's sockets.
        gc.disable()
        gc.freeze()
        self._pid = os.getpid()
        self._control.setblocking(True)  # whatever socket.setdefaulttimeout said
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
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of tasks come here and are reaped, also where pid 1 does not
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _listen(self) -> None:
        try:
            data, channels, _, _ = socket.recv_fds(self._control, 4096, 64)
        except OSError:
            data, channels = b"", []
        self._channels.extend(channels)
        self._over = not data
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
            self._tell({"unborn": number, "why": str(error)})
        else:
            if pid == 0:
                _end_with(partial(self._grow_up, channel))
            _lead_group(pid)
            self._children[pid] = number
            self._tell({"born": number, "pid": pid})
        finally:
            channel.close()

    def _grow_up(self, channel: socket.socket) -> None:
        """Turn this process, just forked, into a child that has nothing of the fork server's."""
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
        if self._collects:
            gc.enable()
        channel.setblocking(True)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._work(channel)

    def _signal(self, number: int, which: int) -> None:
        # By number, not by pid: a child that was reaped is not in here, and its pid may be somebody else's.
        for pid, own in self._children.items():
            if own == number:
                _signal_group(pid, which)

    def _reap(self) -> bool:
        """Reap one process that has ended, and kill what it leaves in its group. Returns whether there was one."""
        pid = -1
        try:
            if hasattr(os, "waitid"):  # not on macOS before Python 3.13
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                pid = ended.si_pid if ended else 0
            if pid in self._children:
                _signal_group(pid, signal.SIGKILL)  # before its pid is free for others
            pid, status = os.waitpid(pid, os.WNOHANG) if pid else (0, 0)
        except ChildProcessError:
            return False
        if pid in self._children:
            self._tell({"died": self._children.pop(pid), "status": status})
        return pid != 0

    def _tell(self, message: Message) -> None:
        try:
            self._control.sendall(pack(message))
        except OSError:
            self._over = True

    def _kill_all(self) -> None:
        for pid in self._children:
            _signal_group(pid, signal.SIGKILL)
        for pid in self._children:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _fork() -> int:
    """Fork with signals blocked: the new process unblocks them when it has let go of its parent's handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = -1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about threads; who starts the fork server logs it
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
    except BaseException:  # noqa: BLE001 - nothing may get back into the frames of the parent
        traceback.print_exc()
    finally:
        flush()
        os._exit(status)


def _lead_group(pid: int) -> None:
    # By both, the child and its parent, because either may be first to need it.
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
    """Do nothing: that a handler ran wakes the loop, by the wakeup descriptor."""


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value if isinstance(value, bytes) else ctypes.c_ulong(value), 0, 0, 0)
