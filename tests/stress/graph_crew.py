"""The processes of a storm over workflows: workers and weavers, started, killed, frozen, thawed and replaced."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from .plans import SMALL, Size
from .struck import FROZEN, KILLED, Jobs, Struck, running

ROOT = Path(__file__).absolute().parents[2]
WORKERS, WEAVERS, LEASE = 4, 2, 2.0
LONGEST = 4 * LEASE  # for which a worker is frozen until a job is rescued from it
# The session of a weaver that has written in a transaction, and waits for what the weaver says next.
UNCOMMITTED = """
select from pg_stat_activity where application_name = %s and datname = current_database()
and state = 'idle in transaction' and backend_xid is not null"""
Conn = psycopg.Connection[Any]


@dataclass(frozen=True)
class Weather:
    """How a storm rages. `pause`: seconds between two acts of a weaver; `strike`: between two faults; `demand`: how
    often each effect must be there at the end, for which it may rage `patience` seconds longer."""

    seconds: float
    seed: int
    size: Size = SMALL
    pause: float = 0.02
    strike: float = 1.0
    mutant: str = ""
    demand: int = 1
    patience: float = 30.0


@dataclass(frozen=True)
class Weaving:
    """A weaver that runs."""

    process: subprocess.Popen[bytes]
    name: str
    journal: Path

    @property
    def has_woven(self) -> bool:
        """Whether it has promised anything. One that is killed while it starts leaves nothing to check, and where
        starting takes longer than the time between two faults, none would ever weave."""
        return self.journal.exists() and self.journal.stat().st_size > 0


@dataclass
class GraphCrew:
    """The workers and weavers of one storm, each with a place of its own, in which others follow it."""

    dsn: str
    directory: Path
    weather: Weather
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._workers: list[subprocess.Popen[bytes]] = []
        self._weavers: list[Weaving] = []
        self._frozen: dict[int, tuple[float, float]] = {}  # by place: until when, and until when at most
        self.struck = Struck()
        self._faults = [self._kill, self._kill, self._freeze, self._kill, self._kill_weaver]
        self._plan: list[Callable[[Conn], None]] = []

    @contextmanager
    def at_work(self, conn: Conn) -> Iterator[None]:
        """Let all of them work meanwhile; none stays."""
        try:
            self._workers = [self._start_worker() for _ in range(WORKERS)]
            self._await_workers(conn)
            self._weavers = [self._start_weaver() for _ in range(WEAVERS)]
            self._await_weavers()
            yield
        finally:
            self.end()

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        environ = os.environ | {
            "PGQUEUE_DSN": self.dsn, "STRESS_DIRECT_DSN": self.dsn, "STRESS_DIRECTORY": str(self.directory),
            "STRESS_PROCESS": name, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        with (self.directory / f"{name}.log").open("wb") as log:
            return subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=environ, stdout=log, stderr=log)

    def _start_worker(self) -> subprocess.Popen[bytes]:
        self.counts["workers"] += 1
        mutant = self.weather.mutant
        module = ["tests.stress.woven_mutants", mutant] if mutant else ["pgqueue"]
        worker = ["work", "-A", "tests.stress.growing_shop:app", "-c", "3", "--lease", str(LEASE), "--poll", "0.2"]
        return self._start(f"w{self.counts['workers']}", *module, *worker)

    def _start_weaver(self) -> Weaving:
        self.counts["weavers"] += 1
        weather, name = self.weather, f"v{self.counts['weavers']}_{self.weather.seed}"
        seed = str(weather.seed * 100 + self.counts["weavers"])
        process = self._start(name, "tests.stress.weaver", name, seed, weather.size.name, str(weather.pause))
        return Weaving(process, name, self.directory / f"weave-{name}.jsonl")

    def _await_workers(self, conn: Conn) -> None:
        while (row := conn.execute("select count(*) from pgqueue.worker").fetchone()) and row[0] < WORKERS:
            if any(worker.poll() is not None for worker in self._workers):
                raise RuntimeError("a worker did not come up: " + self.logs())
            time.sleep(0.05)

    def _await_weavers(self) -> None:
        while not any(weaver.has_woven for weaver in self._weavers):
            if any(weaver.process.poll() is not None for weaver in self._weavers):
                raise RuntimeError("a weaver did not come up: " + self.logs())
            time.sleep(0.05)

    def logs(self) -> str:
        """Return the last lines of all processes."""
        texts = [path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log"))]
        return "\n".join(line for text in texts for line in text.splitlines()[-15:])

    def replace(self) -> None:
        """Start another one in the place of each that has ended."""
        for place, worker in enumerate(self._workers):
            if worker.poll() is not None:
                self._workers[place] = self._start_worker()
        for place, weaver in enumerate(self._weavers):
            if weaver.process.poll() is not None:
                self._weavers[place] = self._start_weaver()

    def strike(self, conn: Conn) -> None:
        """Commit the next fault."""
        self._plan = self._plan or self.rng.sample(self._faults, len(self._faults))
        self._plan.pop()(conn)

    def strike_for(self, missing: Collection[str], conn: Conn) -> None:
        """Commit a fault of which there are too few, or whose effect is missing, unless that is on its way: who waits
        for a rescue must not be struck meanwhile."""
        rescued = self.struck.rescued(conn)
        if "kills" in missing or (KILLED in missing and len(self.struck.jobs[KILLED]) == rescued[KILLED]):
            self._kill(conn)
        elif not {"freezes", FROZEN}.isdisjoint(missing) and not self._frozen:
            self._freeze(conn)
        elif not {"kills of weavers", "transactions cut off"}.isdisjoint(missing):
            self._kill_weaver(conn)

    def _stop_one(self, conn: Conn) -> tuple[int, Jobs] | None:
        """Stop a worker while it runs jobs; return its place and the jobs."""
        ends = time.monotonic() + 1
        while time.monotonic() < ends and len(self._frozen) < WORKERS - 1:
            place = self.rng.randrange(WORKERS)
            if place not in self._frozen:
                worker = self._workers[place]
                worker.send_signal(signal.SIGSTOP)
                if jobs := running(conn, worker.pid):
                    return place, jobs
                worker.send_signal(signal.SIGCONT)
                time.sleep(0.01)
        return None

    def _kill(self, conn: Conn) -> None:
        if (stopped := self._stop_one(conn)) is not None:
            place, jobs = stopped
            self._workers[place].kill()
            self._workers[place].wait()
            self.struck.jobs[KILLED] += jobs
            self.counts["kills"] += 1

    def _freeze(self, conn: Conn) -> None:
        if (stopped := self._stop_one(conn)) is not None:
            place, jobs = stopped
            now = time.monotonic()
            self._frozen[place] = now + LEASE * self.rng.uniform(0.7, 2.0), now + LONGEST
            self.struck.jobs[FROZEN] += jobs
            self.counts["freezes"] += 1

    def _kill_weaver(self, conn: Conn) -> None:
        """Kill a weaver, if one comes to it in the middle of a transaction."""
        woven = [weaver for weaver in self._weavers if weaver.has_woven]
        if not woven:
            return
        weaver, ends = self.rng.choice(woven), time.monotonic() + 2
        while not (cut := self._stop_within(conn, weaver)) and time.monotonic() < ends:
            weaver.process.send_signal(signal.SIGCONT)
            time.sleep(self.rng.uniform(0, 0.01))
        weaver.process.kill()
        weaver.process.wait()
        self.counts["kills of weavers"] += 1
        self.counts["transactions cut off"] += cut

    def _stop_within(self, conn: Conn, weaver: Weaving) -> bool:
        """Stop a weaver; return whether it has written something that it has not committed."""
        weaver.process.send_signal(signal.SIGSTOP)
        return conn.execute(UNCOMMITTED, (f"stress weaver {weaver.name}",)).fetchone() is not None

    def thaw(self, conn: Conn) -> None:
        """Let those go on whose time is over. As long as nothing was rescued from anybody frozen, that takes longer."""
        for place, (until, latest) in list(self._frozen.items()):
            now = time.monotonic()
            if now > latest or (now > until and self.struck.rescued(conn)[FROZEN]):
                self._thaw(place)

    def _thaw(self, place: int) -> None:
        self._workers[place].send_signal(signal.SIGCONT)
        del self._frozen[place]

    def relent(self) -> None:
        """Let all go on, and end the weavers."""
        for place in list(self._frozen):  # a frozen worker may hold the row for which a weaver waits
            self._thaw(place)
        for weaver in self._weavers:
            weaver.process.terminate()
        while self._weavers:
            self._weavers.pop().process.wait(20)

    def end(self) -> None:
        """Kill all."""
        processes: Sequence[subprocess.Popen[bytes]] = [*self._workers, *(weaver.process for weaver in self._weavers)]
        for process in processes:
            process.kill()
            process.wait()
