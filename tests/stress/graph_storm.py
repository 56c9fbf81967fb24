"""A storm over workflows: four workers run random graphs, durable tasks and subscribers; some are killed or frozen.

Meanwhile weavers enqueue, cancel, retry, redrive and send, and are killed as well. A storm rages until each act of
acts.py was performed and has had its effect as often as is demanded; what is missing is played from a script. At the
end all has ended, and the rows prove what checks_woven.py checks. `python -m tests.stress.graph_storm --seconds 60
--seed 3 --size large` runs one on a server of its own.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from . import acts, woven_shop
from .checks_woven import check_woven
from .finish import finish, living, woven_app
from .graph_crew import GraphCrew, Weather
from .plans import LARGE, SIZES
from .script import Script
from .turns import AUDIT, Drift
from .violation import Violation
from .weaver import performed, promised, refused
from .woven import WRONG_CALLS, WRONG_COUNTERS, Row, Woven, load

DRAIN_SECONDS = 60.0
DEADLOCKS = "select deadlocks from pg_stat_database where datname = current_database()"


@dataclass
class Result:
    """What a storm has shown. `missing`: what it should have done, or brought about, and has not."""

    woven: Woven
    violations: list[Violation]
    counts: dict[str, int]
    missing: dict[str, str]


@dataclass
class GraphStorm:
    """A storm in a migrated database that is its own."""

    dsn: str
    weather: Weather
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._counters: list[tuple[int, int, int]] = []
        self._calls: list[Row] = []
        self._drifts: list[Drift] = []
        self._looks_at, self._missing = 0.0, dict[str, str]()

    def run(self) -> Result:
        """Rage for so long, let all end, and check."""
        with ExitStack() as stack:
            self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._app, conn = stack.enter_context(woven_app(self.dsn))
            if conn.execute("select to_regclass('stress.deed')").fetchone() == (None,):
                conn.execute(woven_shop.TABLES)
            self._app.events.declare()
            rng = random.Random(self.weather.seed)
            self._crew = GraphCrew(self.dsn, self._directory, self.weather, rng, self.counts)
            self._script = Script(self._app, self.weather.seed)
            stack.enter_context(self._crew.at_work(conn))
            self._rage(conn)
            drained = self._drain(conn)
            woven = load(self.dsn)
            woven.counters, woven.promised, woven.quiescent = self._counters, promised(self._directory), drained
            woven.wrong_calls += self._calls
            violations = [*check_woven(woven), *self._others(conn, drained)]
            self._count(woven, conn)
        return Result(woven, violations, dict(self.counts), acts.missing(self.counts, self.weather.demand))

    def _rage(self, conn: psycopg.Connection[Any]) -> None:
        """Rage until the time is over and nothing is missing, but no longer than patience goes."""
        ends = time.monotonic() + self.weather.seconds
        strikes_at = time.monotonic() + self.weather.strike
        while time.monotonic() < ends or (time.monotonic() < ends + self.weather.patience and self._missing):
            self._audit(conn)
            self._crew.thaw(conn)
            self._crew.replace()
            missing = self._look(conn)
            self._script.play(conn, missing)
            if time.monotonic() > strikes_at:
                strikes_at = time.monotonic() + self.weather.strike
                if time.monotonic() < ends:
                    self._crew.strike(conn)
                else:
                    self._crew.strike_for(missing, conn)
            time.sleep(0.1)

    def _look(self, conn: psycopg.Connection[Any]) -> dict[str, str]:
        """Return what is not there as often as is demanded, as it was at the last look."""
        if time.monotonic() > self._looks_at:
            self._looks_at = time.monotonic() + max(0.5, self.weather.seconds / 50)
            self._missing = acts.missing(self.counts | self._acts(conn), self.weather.demand)
        return self._missing

    def _acts(self, conn: psycopg.Connection[Any]) -> Counter[str]:
        """Count what weavers have performed, and what has come of all acts and faults."""
        return performed(self._directory) + Counter(acts.effects(conn)) + Counter(self._crew.struck.rescued(conn))

    def _audit(self, conn: psycopg.Connection[Any]) -> None:
        self._counters += conn.execute(WRONG_COUNTERS).fetchall()  # type: ignore[arg-type]
        self._calls += conn.cursor(row_factory=dict_row).execute(WRONG_CALLS).fetchall()
        self._drifts += [Drift(*row) for row in conn.execute(AUDIT).fetchall()]
        self.counts["audits"] += 1

    def _drain(self, conn: psycopg.Connection[Any]) -> bool:
        """Let all end; return whether it did in time."""
        self._crew.relent()
        began = time.monotonic()
        while not (done := finish(conn, self._app)) and time.monotonic() < began + DRAIN_SECONDS:
            self._audit(conn)
            self._crew.replace()
            time.sleep(0.1)
        self.counts["milliseconds of draining"] = int(1000 * (time.monotonic() - began))
        return done

    def _others(self, conn: psycopg.Connection[Any], drained: bool) -> list[Violation]:
        """WF8: after the kills all ends in time. No deadlock, no act that is refused without a cause, and counters of
        limits that say what runs (FL2)."""
        late = f"{DRAIN_SECONDS:g} s after the last fault there still are: "
        found = [] if drained else [Violation("WF8", late + living(conn))]
        counted = [(drift, f"{drift.ran} ran and {drift.counted} were counted") for drift in self._drifts]
        found += [Violation("FL2", f"{drift.bucket}: {told}") for drift, told in counted]
        found += [Violation("refused", told) for told in refused(self._directory)]
        self._crew.end()  # so that all have told their statistics
        time.sleep(0.1)
        row = conn.execute(DEADLOCKS).fetchone()
        if row is not None and row[0]:
            found.append(Violation("deadlock", f"{row[0]} deadlocks; {self._logged()}"))
        return found

    def _logged(self) -> str:
        return " | ".join(line for line in self._crew.logs().splitlines() if "eadlock" in line)[:300]

    def _count(self, woven: Woven, conn: psycopg.Connection[Any]) -> None:
        self.counts.update(self._acts(conn))
        self.counts.update(
            {"jobs": len(woven.jobs), "graphs": len(woven.graphs), "edges": len(woven.edges),
             "events": len(woven.events), "steps": sum(line["op"] == "I" for line in woven.log),
             "jobs rescued": sum(move["reason"] == "rescued" for move in woven.moves),
             "jobs released": sum(move["reason"] == "ready" for move in woven.moves),
             "scenes": self._script.played}
        )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a storm; return 0 if all was as it must be."""
    from .server import Database, OwnServer

    parser = argparse.ArgumentParser(prog="python -m tests.stress.graph_storm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", choices=sorted(SIZES), default=LARGE.name)
    parser.add_argument("--mutant", default="")
    parser.add_argument("--demand", type=int, default=1, help="how often each act must have had an effect")
    given = parser.parse_args(arguments)
    server = OwnServer()
    try:
        database = Database(server, "graph_storm")
        weather = Weather(given.seconds, given.seed, SIZES[given.size], mutant=given.mutant, demand=given.demand)
        result = GraphStorm(database.dsn(user=database.role), weather).run()
    finally:
        server.stop()
    print(result.counts)
    print("missing", result.missing)
    print("violations", dict(Counter(violation.number for violation in result.violations)))
    for violation in result.violations[:20]:
        print("   ", f"{violation!s:.1200}")
    return 1 if result.violations or result.missing else 0


if __name__ == "__main__":
    sys.exit(main())
