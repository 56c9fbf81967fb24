"""Starts `python -m pgqueue …` as a fork of a process that has imported pgqueue: imports are most of a command's work.

Such a command is a process as any other, with a directory, an environment, arguments and a process group of its own,
and it runs the module as `python -m` does. Only what every command imports is there before it starts, and nothing of
pgqueue.cli. It is no start of an interpreter: nothing imports `sitecustomize`, for example. Tests about a start itself,
the workers of a supervisor and the stress machine start interpreters of their own.
"""

import atexit
import contextlib
import gc
import io
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
NUMBER = struct.Struct("!i")


class Started:
    """A process that was started, with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, told: socket.socket, args: tuple[str, ...]) -> None:
        self._told = told
        self._args = args
        self._code: int | None = None
        self.pid = _number(told)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""
        if self._code is None:
            self._told.setblocking(False)
            try:
                self._end()
            except BlockingIOError:
                return None
        return self._code

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit code; raise `TimeoutExpired` as Popen does."""
        if self._code is None:
            self._told.settimeout(timeout)
            try:
                self._end()
            except TimeoutError:
                raise subprocess.TimeoutExpired(self._args, timeout) from None
        assert self._code is not None
        return self._code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end(self) -> None:
        self._code = _number(self._told)
        self._told.close()


def _number(told: socket.socket) -> int:
    """Read a number: the monitor writes each at once."""
    if len(read := told.recv(NUMBER.size)) < NUMBER.size:
        raise AssertionError("the starter of processes has ended")
    return int(NUMBER.unpack(read)[0])


class _Starter:
    """The process that forks, as this one sees it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.starter", str(theirs.fileno())]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PGQUEUE_")}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with theirs:
            # A session of its own: what a terminal sends to pytest, pytest passes on.
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                env=environ | {"PYTHONPATH": path},
                start_new_session=True,
            )
        atexit.register(self._stop)

    def start(self, request: bytes, stdin: int, stdout: int, stderr: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            fds = [stdin, stdout, stderr, theirs.fileno()]
            socket.send_fds(self._line, [NUMBER.pack(len(request))], fds)
            self._line.sendall(request)
        return ours

    def _stop(self) -> None:
        self._line.close()
        self._process.wait()


_starters: dict[int, _Starter] = {}  # by the pid of this process: what it forks has none


def start(*args: str, cwd: Path, env: Mapping[str, str], stdout: int, stderr: int) -> Started:
    """Start `python -m pgqueue …` with an empty stdin, in a process group of its own."""
    if (starter := _starters.get(os.getpid())) is None:
        starter = _starters[os.getpid()] = _Starter()
    request = json.dumps({"args": args, "cwd": str(cwd), "env": dict(env)}).encode()
    with Path(os.devnull).open("rb") as empty:
        return Started(starter.start(request, empty.fileno(), stdout, stderr), args)


def run(*args: str, cwd: Path = ROOT, env: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    """Run `python -m pgqueue …` to its end, for at most a minute; return its exit code and what it wrote."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = start(*args, cwd=cwd, env=env, stdout=out.fileno(), stderr=err.fileno())
        try:
            code = started.wait(60)
        finally:
            started.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(args, code, out.read(), err.read())


def _serve(line: socket.socket) -> dict[str, object]:
    """Fork a process for each request; return the request in that process, and end with the line."""
    while True:
        header, fds, _, _ = socket.recv_fds(line, NUMBER.size, 4)
        if not header:
            raise SystemExit
        size = NUMBER.unpack(header)[0]
        request = json.loads(b"".join(_pieces(line, size)))
        _reap()
        if os.fork() == 0:
            line.close()
            return _monitored(request, fds)
        for fd in fds:
            os.close(fd)


def _pieces(line: socket.socket, size: int) -> list[bytes]:
    pieces: list[bytes] = []
    while size:
        pieces.append(line.recv(size))
        size -= len(pieces[-1])
    return pieces


def _reap() -> None:
    """Forget the monitors that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _monitored(request: dict[str, object], fds: list[int]) -> dict[str, object]:
    """Fork the process that was asked for and return in it; in the monitor tell its pid and how it ended, and end."""
    told = socket.socket(fileno=fds[3])
    if pid := os.fork():
        for fd in fds[:3]:
            os.close(fd)
        with contextlib.suppress(OSError):  # it has ended already
            os.setpgid(pid, pid)
        with contextlib.suppress(OSError):  # pytest has ended
            told.sendall(NUMBER.pack(pid))
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):
            told.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os._exit(0)
    told.close()
    os.setpgid(0, 0)
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
        os.close(fd)
    return request


def _become(request: dict[str, object], below: list[str]) -> None:
    """Take the place of a new interpreter: directory, environment, path, arguments, streams.

    SIGHUP does what it does in a terminal, also where the tests run under `nohup`.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    cwd, env = str(request["cwd"]), dict(request["env"])  # type: ignore[call-overload]
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *below]
    sys.argv[:] = ["-m", *request["args"]]  # type: ignore[misc]
    raw = bool(env.get("PYTHONUNBUFFERED"))
    sys.stdin = io.open(0, closefd=False)  # noqa: SIM115, UP020
    for name, fd in (("stdout", 1), ("stderr", 2)):
        binary = io.open(fd, "wb", 0 if raw else -1, closefd=False)  # noqa: SIM115, UP020
        errors = "backslashreplace" if name == "stderr" else "strict"
        lines = name == "stderr" or binary.isatty()
        setattr(sys, name, io.TextIOWrapper(binary, None, errors, line_buffering=lines, write_through=raw))


def _main() -> None:
    below = sys.path[1 + len(os.environ["PYTHONPATH"].split(os.pathsep)) :]  # without the directory and what is given
    import pgqueue.cli.commands  # all that the tree of commands rests on

    for name in [name for name in sys.modules if name.split(".")[:2] == ["pgqueue", "cli"]]:
        del sys.modules[name]  # some of it looks at the streams and the environment
    del pgqueue.cli
    gc.collect()
    gc.freeze()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))), below)
    runpy._run_module_as_main("pgqueue")


if __name__ == "__main__":
    _main()
