"""The processes of a run: workers as users start them, and producers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).absolute().parents[2]
STOP_SECONDS = 8


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # the process has just ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def environ_of(root: Path) -> dict[str, str]:
    """Return the environment of a process that takes pgqueue from this folder, in which it begins."""
    return {name: value for name, value in os.environ.items() if root == ROOT or name != "PYTHONPATH"}


def migrate_by(root: Path, dsn: str) -> None:
    """Migrate a database by the code in a folder."""
    environ = environ_of(root) | {"PGQUEUE_DSN": dsn}
    subprocess.run([sys.executable, "-m", "pgqueue", "migrate"], cwd=root, env=environ, check=True, capture_output=True)


class MeasuredWorker:
    """`pgqueue work`, in a process group of its own so that all of its children can be killed."""

    def __init__(self, options: Sequence[str], environ: dict[str, str], log: IO[bytes], root: Path = ROOT) -> None:
        command = [sys.executable, "-m", "pgqueue", "work", "-A", "tests.bench.tasks:app", *options]
        self._process = subprocess.Popen(command, cwd=root, env=environ, stdout=log, stderr=log, start_new_session=True)

    @property
    def pid(self) -> int:
        """The id of the process; with `--processes`, that of the supervisor."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Return the seconds of CPU that it and its living children have used."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return _cpu(self.pid) + sum(_cpu(int(child)) for child in children)

    def stop(self) -> None:
        """Terminate it, then kill what is left of its process group."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class ProducerProcess:
    """A process of `child.py`, which connects and then waits for `go`."""

    def __init__(self, arguments: Sequence[str], environ: dict[str, str], log: IO[bytes], root: Path = ROOT) -> None:
        command = [sys.executable, "-m", "tests.bench.child", *arguments]
        self._process = subprocess.Popen(
            command, cwd=root, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        self._verb = arguments[0]

    def ready(self) -> None:
        """Wait until it has connected."""
        self._line()

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for its end; return its answer."""
        answer: dict[str, Any] = json.loads(self._line())
        self._process.wait(30)
        return answer

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"producer {self._verb} ended with {self._process.wait()}: see its log")
        return line

    def stop(self) -> None:
        """Kill it if it still runs."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                stream and stream.close()


@contextmanager
def producers(
    calls: Sequence[Sequence[str]], environ: dict[str, str], log: IO[bytes], root: Path = ROOT
) -> Iterator[list[ProducerProcess]]:
    """Yield producers that have connected; stop them at the end."""
    started = [ProducerProcess(call, environ, log, root) for call in calls]
    try:
        for producer in started:
            producer.ready()
        yield started
    finally:
        for producer in started:
            producer.stop()
