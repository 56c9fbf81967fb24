"""The processes: started behind a gate of their own, watched, replaced when they end, killed at the end."""

import asyncio
import ctypes
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .proxy import Gate
from .server import Database

ROOT = Path(__file__).absolute().parents[2]
UNREACHABLE = 69
_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nothing is left behind even if the run itself is killed


@dataclass(eq=False)
class Process:
    """One process of the run. `planned` is why its end is expected, if it is."""

    name: str
    kind: str
    gate: Gate
    log: Path
    handle: asyncio.subprocess.Process
    planned: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        return self.handle.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still lives."""
        with suppress(ProcessLookupError):
            self.handle.send_signal(number)


@dataclass(frozen=True)
class Exit:
    """Return how a process ended."""

    name: str
    kind: str
    code: int
    planned: str
    tail: str = ""


class Fleet:
    """All processes. Keeps as many of each kind as were asked for."""

    def __init__(self, database: Database, directory: Path, command: dict[str, list[str]]) -> None:
        self._database = database
        self._directory = directory
        self._command = command
        self._count = 0
        self._watchers: set[asyncio.Task[None]] = set()
        self.replacing = True
        self.kept: tuple[str, ...] = ("worker", "scheduler", "weaver")  # kinds of which there are always as many
        self.release = "1"  # which tasks new workers know: those of the second release know one more
        self.murders = 0  # how many more jobs may kill a worker
        self.living: dict[str, Process] = {}
        self.exits: list[Exit] = []

    def of(self, kind: str) -> list[Process]:
        """The living processes of a kind, oldest first."""
        return [process for process in self.living.values() if process.kind == kind]

    async def start(self, kind: str) -> Process:
        """Start a process behind a new gate."""
        self._count += 1
        name = f"{kind[0]}{self._count}"
        parts: dict[str, Any] = conninfo_to_dict(self._database.dsn(user=self._database.role))
        gate = Gate({"host": parts["host"], "port": int(parts["port"])})
        await gate.listen()
        del parts["application_name"]
        options = f"-c stress.process={name}"
        through = make_conninfo(**parts | {"host": "127.0.0.1", "port": gate.port, "options": options})
        environ = os.environ | {
            "PGQUEUE_DSN": through,
            "STRESS_DIRECT_DSN": make_conninfo(**parts, application_name="stress effect"),
            "STRESS_DIRECTORY": str(self._directory),
            "STRESS_PROCESS": name,
            "STRESS_RELEASE": self.release,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        arguments = [part.format(name=name, number=self._count) for part in self._command[kind]]
        log = self._directory / f"{name}.log"
        with log.open("wb") as output:
            handle = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdout=output, stderr=output, stdin=asyncio.subprocess.DEVNULL,
                env=environ, cwd=ROOT, preexec_fn=_die_with_parent,
            )  # fmt: skip
        process = Process(name, kind, gate, log, handle)
        self.living[name] = process
        watcher = asyncio.create_task(self._watch(process))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return process

    async def _watch(self, process: Process) -> None:
        code = await process.handle.wait()
        del self.living[process.name]
        process.ended.set()
        planned = process.planned
        if not planned and code == -signal.SIGKILL and self.murders:
            self.murders -= 1
            planned = "F4"
        if not planned and code == UNREACHABLE:
            planned = "the database was down when it started"
        self.exits.append(Exit(process.name, process.kind, code, planned, "" if planned else _tail(process.log)))
        await process.gate.close()
        if self.replacing and process.kind in self.kept:
            if code == UNREACHABLE:
                await asyncio.sleep(0.3)  # as a supervisor would
            await self.start(process.kind)

    async def stop(self, process: Process, seconds: float, planned: str = "stopped") -> float | None:
        """Ask a process to end and wait; return how long it took, None if it had to be killed."""
        process.planned = planned
        loop = asyncio.get_running_loop()
        began = loop.time()
        process.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.ended.wait(), seconds)
        except TimeoutError:
            process.send(signal.SIGKILL)
            await process.ended.wait()
            return None
        return loop.time() - began

    async def kill_all(self) -> None:
        """End everything at once."""
        self.replacing = False
        for process in list(self.living.values()):
            process.planned = process.planned or "the run is over"
            process.send(signal.SIGKILL)
            process.send(signal.SIGCONT)
        await asyncio.gather(*self._watchers, return_exceptions=True)

    def logs(self, kind: str) -> str:
        """Return the output of all processes of a kind, also of those that have ended."""
        return "".join(path.read_text(errors="replace") for path in sorted(self._directory.glob(f"{kind[0]}*.log")))


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-12:])
