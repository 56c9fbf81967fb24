"""A storm over workflows: four workers run random graphs, durable tasks and subscribers; some are killed or frozen.

Meanwhile weavers enqueue, cancel, retry, redrive and send, and are killed as well. At the end all has ended, and the
rows prove what checks_woven.py checks. `python -m tests.stress.graph_storm --seconds 60 --seed 3 --size large` runs one
on a server of its own.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from . import woven_shop
from .checks_woven import check_woven
from .plans import LARGE, SIZES, SMALL, Size
from .turns import AUDIT, Drift
from .violation import Violation
from .weaver import finish, living, promised, woven_app
from .woven import KEY, WRONG_CALLS, WRONG_COUNTERS, Row, Woven, load

ROOT = Path(__file__).absolute().parents[2]
WORKERS, WEAVERS, LEASE = 4, 2, 2.0
DRAIN_SECONDS, PATIENCE = 60.0, 20.0
BUSY = "select pid from pgqueue.worker w where exists (select from pgqueue.job_live where worker_id = w.id)"
ENOUGH = """
select count(*) > 300, count(*) filter (where reason = 'rescued') > 0,
       exists (select from pgqueue.step where kind = 'call' and done)
       and 2 = (select count(distinct kind) from stress.deed where kind in ('added', 'over'))
from pgqueue.transition"""
DEADLOCKS = "select deadlocks from pg_stat_database where datname = current_database()"


@dataclass(frozen=True)
class Weather:
    """How a storm rages. `pause`: seconds between two acts of a weaver; `strike`: between two faults."""

    seconds: float
    seed: int
    size: Size = SMALL
    pause: float = 0.02
    strike: float = 1.0
    mutant: str = ""


@dataclass
class Result:
    """What a storm has shown."""

    woven: Woven
    violations: list[Violation]
    counts: dict[str, int]


@dataclass
class GraphStorm:
    """A storm in a migrated database that is its own."""

    dsn: str
    weather: Weather
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.weather.seed)
        self._workers: list[subprocess.Popen[bytes]] = []
        self._weavers: list[subprocess.Popen[bytes]] = []
        self._journals: dict[int, Path] = {}  # of weavers, by process
        self._frozen: dict[int, float] = {}
        self._counters: list[tuple[int, int, int]] = []
        self._calls: list[Row] = []
        self._drifts: list[Drift] = []
        self._faults = [self._kill, self._kill, self._freeze, self._kill, self._kill_weaver]
        self._plan: list[Callable[[psycopg.Connection[Any]], None]] = []

    def run(self) -> Result:
        """Rage for so long, let all end, and check."""
        with ExitStack() as stack:
            self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._app, conn = stack.enter_context(woven_app(self.dsn))
            if conn.execute("select to_regclass('stress.deed')").fetchone() == (None,):
                conn.execute(woven_shop.TABLES)
            self._app.events.declare()
            stack.callback(self._end_processes)
            self._workers = [self._start_worker() for _ in range(WORKERS)]
            self._await_workers(conn)
            self._weavers = [self._start_weaver() for _ in range(WEAVERS)]
            self._await_weavers()
            self._rage(conn)
            drained = self._drain(conn)
            woven = load(self.dsn)
            woven.counters, woven.promised, woven.quiescent = self._counters, promised(self._directory), drained
            woven.wrong_calls += self._calls
            violations = [*check_woven(woven), *self._others(conn, drained)]
        self._count(woven)
        return Result(woven, violations, dict(self.counts))

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        environ = os.environ | {
            "PGQUEUE_DSN": self.dsn, "STRESS_DIRECT_DSN": self.dsn, "STRESS_DIRECTORY": str(self._directory),
            "STRESS_PROCESS": name, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        with (self._directory / f"{name}.log").open("wb") as log:
            return subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=environ, stdout=log, stderr=log)

    def _start_worker(self) -> subprocess.Popen[bytes]:
        self.counts["workers"] += 1
        mutant = self.weather.mutant
        module = ["tests.stress.woven_mutants", mutant] if mutant else ["pgqueue"]
        worker = ["work", "-A", "tests.stress.growing_shop:app", "-c", "3", "--lease", str(LEASE), "--poll", "0.2"]
        return self._start(f"w{self.counts['workers']}", *module, *worker)

    def _start_weaver(self) -> subprocess.Popen[bytes]:
        self.counts["weavers"] += 1
        weather, name = self.weather, f"v{self.counts['weavers']}_{self.weather.seed}"
        seed = str(weather.seed * 100 + self.counts["weavers"])
        weaver = self._start(name, "tests.stress.weaver", name, seed, weather.size.name, str(weather.pause))
        self._journals[weaver.pid] = self._directory / f"weave-{name}.jsonl"
        return weaver

    def _has_woven(self, weaver: subprocess.Popen[bytes]) -> bool:
        """Whether a weaver has promised anything. One that is killed while it starts leaves nothing to check, and where
        starting takes longer than the time between two faults, none would ever weave."""
        journal = self._journals[weaver.pid]
        return journal.exists() and journal.stat().st_size > 0

    def _await_workers(self, conn: psycopg.Connection[Any]) -> None:
        while (row := conn.execute("select count(*) from pgqueue.worker").fetchone()) and row[0] < WORKERS:
            if any(worker.poll() is not None for worker in self._workers):
                raise RuntimeError("a worker did not come up: " + self.logs())
            time.sleep(0.05)

    def _await_weavers(self) -> None:
        while not any(self._has_woven(weaver) for weaver in self._weavers):
            if any(weaver.poll() is not None for weaver in self._weavers):
                raise RuntimeError("a weaver did not come up: " + self.logs())
            time.sleep(0.05)

    def logs(self) -> str:
        """Return the last lines of all processes."""
        texts = [path.read_text(errors="replace") for path in sorted(self._directory.glob("*.log"))]
        return "\n".join(line for text in texts for line in text.splitlines()[-15:])

    def _rage(self, conn: psycopg.Connection[Any]) -> None:
        ends = time.monotonic() + self.weather.seconds
        strikes_at = time.monotonic() + self.weather.strike
        while time.monotonic() < ends or (time.monotonic() < ends + PATIENCE and not self._enough(conn)):
            self._audit(conn)
            self._thaw()
            self._replace()
            if time.monotonic() > strikes_at:
                strikes_at = time.monotonic() + self.weather.strike
                self._plan = self._plan or self._rng.sample(self._faults, len(self._faults))
                self._plan.pop()(conn)
            time.sleep(0.1)

    def _enough(self, conn: psycopg.Connection[Any]) -> bool:
        """Whether there was something to strike, and it was struck."""
        row = conn.execute(ENOUGH).fetchone()
        return self.counts["kills"] > 0 and row == (True, True, True)

    def _audit(self, conn: psycopg.Connection[Any]) -> None:
        self._counters += conn.execute(WRONG_COUNTERS).fetchall()  # type: ignore[arg-type]
        self._calls += conn.cursor(row_factory=dict_row).execute(WRONG_CALLS).fetchall()
        self._drifts += [Drift(*row) for row in conn.execute(AUDIT).fetchall()]
        self.counts["audits"] += 1

    def _replace(self) -> None:
        for place, worker in enumerate(self._workers):
            if worker.poll() is not None:
                self._workers[place] = self._start_worker()
        for place, weaver in enumerate(self._weavers):
            if weaver.poll() is not None:
                self._weavers[place] = self._start_weaver()

    def _stop_one(self, conn: psycopg.Connection[Any]) -> int | None:
        """Stop a worker while it runs jobs; return its place."""
        ends = time.monotonic() + 1
        while time.monotonic() < ends and len(self._frozen) < WORKERS - 1:
            place = self._rng.randrange(WORKERS)
            if place not in self._frozen:
                worker = self._workers[place]
                worker.send_signal(signal.SIGSTOP)
                if worker.pid in {pid for (pid,) in conn.execute(BUSY)}:
                    return place
                worker.send_signal(signal.SIGCONT)
                time.sleep(0.01)
        return None

    def _kill(self, conn: psycopg.Connection[Any]) -> None:
        place = self._stop_one(conn)
        if place is not None:
            self._workers[place].kill()
            self._workers[place].wait()
            self.counts["kills"] += 1

    def _freeze(self, conn: psycopg.Connection[Any]) -> None:
        place = self._stop_one(conn)
        if place is not None:
            self._frozen[place] = time.monotonic() + LEASE * self._rng.uniform(0.7, 2.0)
            self.counts["freezes"] += 1

    def _kill_weaver(self, _: psycopg.Connection[Any]) -> None:
        woven = [weaver for weaver in self._weavers if self._has_woven(weaver)]
        if not woven:
            return
        weaver = self._rng.choice(woven)
        weaver.kill()
        weaver.wait()
        self.counts["kills of weavers"] += 1

    def _thaw(self, *, at_once: bool = False) -> None:
        for place in [place for place, until in self._frozen.items() if at_once or time.monotonic() > until]:
            self._workers[place].send_signal(signal.SIGCONT)
            del self._frozen[place]

    def _drain(self, conn: psycopg.Connection[Any]) -> bool:
        """Let all end; return whether it did in time."""
        self._thaw(at_once=True)  # a frozen worker may hold the row for which a weaver waits
        for weaver in self._weavers:
            weaver.terminate()
        while self._weavers:
            self._weavers.pop().wait(20)
        began = time.monotonic()
        while not (done := finish(conn, self._app)) and time.monotonic() < began + DRAIN_SECONDS:
            self._audit(conn)
            self._replace()
            time.sleep(0.1)
        self.counts["milliseconds of draining"] = int(1000 * (time.monotonic() - began))
        return done

    def _end_processes(self) -> None:
        for process in (*self._workers, *self._weavers):
            process.kill()
            process.wait()

    def _others(self, conn: psycopg.Connection[Any], drained: bool) -> list[Violation]:
        """WF8: after the kills all ends in time. No deadlock, and counters of limits that say what runs (FL2)."""
        late = f"{DRAIN_SECONDS:g} s after the last fault there still are: "
        found = [] if drained else [Violation("WF8", late + living(conn))]
        counted = [(drift, f"{drift.ran} ran and {drift.counted} were counted") for drift in self._drifts]
        found += [Violation("FL2", f"{drift.bucket}: {told}") for drift, told in counted]
        self._end_processes()  # so that all have told their statistics
        time.sleep(0.1)
        row = conn.execute(DEADLOCKS).fetchone()
        if row is not None and row[0]:
            found.append(Violation("deadlock", f"{row[0]} deadlocks; {self._logged()}"))
        return found

    def _logged(self) -> str:
        return " | ".join(line for line in self.logs().splitlines() if "eadlock" in line)[:300]

    def _count(self, woven: Woven) -> None:
        self.counts.update(
            jobs=len(woven.jobs), graphs=len(woven.graphs), edges=len(woven.edges), events=len(woven.events),
            steps=sum(line["op"] == "I" for line in woven.log), undos=len(woven.undos),
            calls=sum(line["op"] == "I" and line["new"]["kind"] == "call" for line in woven.log),
            answers=sum(line["op"] == "U" and line["new"]["kind"] == "call" for line in woven.log),
            replaced=sum(row["replaces"] is not None for row in woven.workflows),
        )  # fmt: skip
        self.counts.update(deed["kind"] for deed in woven.deeds if deed["kind"] in ("added", "over"))
        self.counts.update("promised" for name, how in woven.promised.items() if name.startswith(KEY) and how == "ok")
        self.counts.update(f"{move['reason']}".split(" by ")[0] for move in woven.moves if move["reason"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a storm; return 0 if all was as it must be."""
    from .server import Database, OwnServer

    parser = argparse.ArgumentParser(prog="python -m tests.stress.graph_storm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", choices=sorted(SIZES), default=LARGE.name)
    parser.add_argument("--mutant", default="")
    given = parser.parse_args(arguments)
    server = OwnServer()
    try:
        database = Database(server, "graph_storm")
        weather = Weather(given.seconds, given.seed, SIZES[given.size], mutant=given.mutant)
        result = GraphStorm(database.dsn(user=database.role), weather).run()
    finally:
        server.stop()
    print(result.counts)
    print("violations", dict(Counter(violation.number for violation in result.violations)))
    for violation in result.violations[:20]:
        print("   ", f"{violation!s:.1200}")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
