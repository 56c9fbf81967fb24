"""The workers of a storm: processes that are started, killed, frozen, thawed and replaced, and what they have said."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from .storm_worker import LEASE
from .struck import FROZEN, KILLED, Jobs, Struck, running
from .violation import Violation

ROOT = Path(__file__).absolute().parents[2]
WORKERS = 4


class Crew:
    """The worker processes of one storm, each with a place of its own, in which others follow it."""

    def __init__(self, dsn: str, seed: int, mutant: str, rng: random.Random, counts: Counter[str]) -> None:
        self._dsn = dsn
        self._seed = seed
        self._mutant = mutant
        self._rng = rng
        self._counts = counts
        self._workers: list[subprocess.Popen[bytes]] = []
        self._frozen: dict[int, float] = {}  # the place of a worker, and until when
        self.struck = Struck()

    @contextmanager
    def at_work(self, conn: psycopg.Connection[Any]) -> Iterator[None]:
        """Let all of them work meanwhile; none stays."""
        with tempfile.TemporaryFile() as self._told:
            try:
                for place in range(WORKERS):
                    self._workers.append(self._start(place))
                self._await_workers(conn)
                yield
            finally:
                for worker in self._workers:
                    worker.kill()
                    worker.wait()
                self._said = self._read()

    def _await_workers(self, conn: psycopg.Connection[Any]) -> None:
        """Wait until each worker has registered."""
        while (row := conn.execute("select count(*) from pgqueue.worker").fetchone()) and row[0] < WORKERS:
            if any(worker.poll() is not None for worker in self._workers):
                self.deadlocks()  # raises what it has said
            time.sleep(0.05)

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        self._counts["workers"] += 1
        seed = self._counts["workers"] * 1000 + self._seed * WORKERS + place
        command = [sys.executable, "-m", "tests.stress.storm_worker", str(seed), self._mutant]
        environ = os.environ | {"STORM_DSN": self._dsn, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=self._told, stderr=self._told)

    def replace(self) -> None:
        """Start another one in the place of each that has ended."""
        for place, worker in enumerate(self._workers):
            if worker.poll() is not None:
                self._workers[place] = self._start(place)

    def _stop_one(self, conn: psycopg.Connection[Any]) -> tuple[int, Jobs] | None:
        """Stop a worker while it runs jobs; return its place and the jobs."""
        ends = time.monotonic() + 2
        while time.monotonic() < ends and len(self._frozen) < WORKERS - 1:
            place = self._rng.randrange(WORKERS)
            if place in self._frozen:
                continue
            worker = self._workers[place]
            worker.send_signal(signal.SIGSTOP)
            if jobs := running(conn, worker.pid):
                return place, jobs
            worker.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        return None

    def kill(self, conn: psycopg.Connection[Any]) -> None:
        """Kill one that runs jobs."""
        if (stopped := self._stop_one(conn)) is not None:
            place, jobs = stopped
            self._workers[place].kill()
            self._workers[place].wait()
            self.struck.jobs[KILLED] += jobs
            self._counts["kills"] += 1

    def freeze(self, conn: psycopg.Connection[Any]) -> None:
        """Freeze one that runs jobs, for as long as half a lease or three."""
        if (stopped := self._stop_one(conn)) is not None:
            place, jobs = stopped
            self.struck.jobs[FROZEN] += jobs
            self._frozen[place] = time.monotonic() + LEASE * self._rng.uniform(0.5, 3.0)
            self._counts["freezes"] += 1

    def thaw(self) -> None:
        """Let those go on whose time is over."""
        for place in [place for place, until in self._frozen.items() if time.monotonic() > until]:
            self._workers[place].send_signal(signal.SIGCONT)
            del self._frozen[place]

    def relent(self) -> None:
        """Let all go on."""
        self._frozen = dict.fromkeys(self._frozen, 0.0)
        self.thaw()

    def deadlocks(self) -> list[Violation]:
        """Return what workers have said: of deadlocks, of which there must be none; anything else ends the storm."""
        lines = self._said if self._told.closed else self._read()
        other = [line for line in lines if not line.startswith('{"deadlock"')]
        if other:
            raise RuntimeError("a worker failed: " + "\n".join(other[-12:]))
        return [Violation("deadlock", line) for line in lines]

    def _read(self) -> list[str]:
        self._told.seek(0)
        return self._told.read().decode(errors="replace").splitlines()
