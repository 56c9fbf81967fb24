"""A storm over metered jobs: four processes claim and end them at random; some are killed, frozen, and rescued from.

Meanwhile jobs are enqueued, some in transactions that commit late, and limits change. At the end every job has ended,
and the log of moves proves what tests/stress/turns.py checks. `python -m tests.stress.storm --seconds 60 --seed 3`
runs one on a server of its own; `--mutants` puts in each seeded bug in turn, and sees it caught.
"""

import argparse
import json
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg

import pgqueue
from pgqueue.jobs.flow import Flow
from pgqueue.queries import Queries
from tests.statements.test_explain import buffers, explain

from .history import COUNTERS
from .reasons import Untold, ask
from .storm_crew import Crew
from .storm_lanes import CHANGES, RULES, flows
from .storm_mutants import MUTANTS, seeded
from .struck import FROZEN, KILLED
from .turns import AUDIT, HALF_OPEN, NEVER, Drift, Look, Move, Stop, Term, Turns, check_turns
from .violation import Violation

MOST_WAITING = 12  # jobs of a lane
DRAIN_SECONDS = 30.0
STRIKE_SECONDS = 0.5
INSERT = """
with new as (
    insert into pgqueue.job_live (task, queue, args, headers, state, waits_for, lane, max_attempts, run_at)
    select 't', 'default', '{}', h.headers, 'blocked', 'turn', (h.headers -> '$flow' ->> 'lane')::bigint, 6,
           clock_timestamp() + make_interval(secs => h.delay)
    from unnest(%s::jsonb[], %s::float8[]) as h(headers, delay) returning id, headers, run_at
), logged as (
    insert into pgqueue.transition (job_id, to_state, attempt, lease) select id, 'blocked', 0, 0 from new
)
select id, headers -> '$flow', run_at from new"""
WAITING = "select lane, count(*) from pgqueue.job_live where state = 'blocked' group by lane"
LEFT = "select id, headers -> '$flow' from pgqueue.job_live where not headers -> '$flow' -> 'buckets' @> '[\"shut\"]'"
EVERY = """
select id, attempt, lease from pgqueue.job_live union all select id, attempt, lease from pgqueue.job_finished
union all select id, attempt, lease from pgqueue.dead_letter"""
BEGUN = "create table public.begun (job_id bigint not null, began timestamptz not null, done timestamptz)"
PAUSED = ({"limit": "two"}, {"limit": "two", "key": "a"}, {"limit": "shared"}, {"queue": "default"}, {"task": "t"})
REASONS = """
select split_part(reason, ':', 1), count(*)::int from pgqueue.transition where reason is not null group by 1"""
# How many jobs of a bucket of a rule run more than it admits, at most.
OVER = """
select coalesce(max(count), 0) > %s from (
    select count(*) from pgqueue.job_live j cross join lateral
    jsonb_array_elements_text(j.headers -> '$flow' -> 'buckets') as b(name)
    where j.state = 'running' and split_part(b.name, '/', 1) = %s group by b.name) as ran"""
# What a storm must do, and what must come of it: reasons of the log, reasons that `why` has told, and its own counts.
DEMANDED = (
    "kills", "freezes", KILLED, FROZEN, "changes", "limits lowered below what ran", "pauses", "commits that came late",
    "breakers seen half open", "rescued", "released", "given back", "later", "error", "not wanted", "rejected",
    "skipped", "replaced by a newer job", "told: full", "told: paused", "told: order", "told: ahead", "told: rate",
)  # fmt: skip
PATIENCE = 30.0
ASKED = 4  # jobs at each look
LOG = "select at, job_id, from_state, to_state, reason from pgqueue.transition order by at"


@dataclass
class Result:
    """What a storm has shown. `missing`: what it should have done, or brought about, and has not."""

    turns: Turns
    violations: list[Violation]
    counts: dict[str, int]
    missing: list[str]


@dataclass
class Storm:
    """A storm in a migrated database that is its own."""

    dsn: str
    seed: int
    mutant: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._flows: dict[int, Flow] = {}
        self._known: dict[int, datetime] = {}
        self._due: dict[int, datetime] = {}
        self._terms: dict[str, list[Term]] = {}
        self._drifts: list[Drift] = []
        self._left: list[Violation] = []
        mutant = "" if self.mutant and MUTANTS[self.mutant].in_looks else self.mutant
        self._crew = Crew(self.dsn, self.seed, mutant, self._rng, self.counts)
        self._strikes_at = 0.0
        self._looks_at, self._over = self._strikes_at, False
        self._plan: list[Callable[[psycopg.Connection[Any]], None]] = []
        self._open: tuple[psycopg.Connection[Any], list[int], float] | None = None
        self._lanes = flows()
        self._stops: list[Stop] = []
        self._paused: tuple[dict[str, Any], datetime, float] | None = None  # what, since when, and until when
        self._looks: list[Look] = []
        self._unsaid: list[Untold] = []
        self._counted_at, self._missing = 0.0, list[str]()
        self._probes: list[tuple[datetime, str, int]] = []

    def run(self, seconds: float, until: Container[str] = (), demand: int = 1) -> Result:
        """Rage for so long, and until each act has had its effect as often as `demand` says; let every job end, and
        check. `until`: end as soon as one of these is violated."""
        with ExitStack() as stack:
            stack.enter_context(seeded(self.mutant))
            conn = stack.enter_context(psycopg.connect(self.dsn, autocommit=True))
            self._app = stack.enter_context(closing(pgqueue.App(self.dsn)))
            self._declare(conn)
            with self._crew.at_work(conn):
                try:
                    ends = time.monotonic() + seconds
                    latest = ends if until else ends + PATIENCE
                    while time.monotonic() < (latest if self._lacks(conn, demand) else ends):
                        self._rage(conn)
                        if self._caught(conn, until):
                            break
                    self._crew.relent()
                    self._drain(conn)
                finally:
                    if self._open is not None:
                        self._open[0].close()
            turns = self._evidence(conn, ended=True)
            violations = self._violations(turns)
            counts = self.counts | self._effects(conn)
        counts.update(jobs=len(turns.flows), claims=sum(move.starts for move in turns.moves))
        return Result(turns, violations, dict(counts), _missing(counts, demand))

    def _effects(self, conn: psycopg.Connection[Any]) -> Counter[str]:
        return Counter(dict(conn.execute(REASONS).fetchall())) + Counter(self._crew.struck.rescued(conn))

    def _lacks(self, conn: psycopg.Connection[Any], demand: int) -> bool:
        """Whether anything is missing, as it was at the last look."""
        if time.monotonic() > self._counted_at:
            self._counted_at = time.monotonic() + 1
            self._missing = _missing(self.counts | self._effects(conn), demand)
        return bool(self._missing)

    def _declare(self, conn: psycopg.Connection[Any]) -> None:
        conn.execute(BEGUN)
        for name, columns in RULES.items():
            names = ", ".join(["name", *columns])
            holes = ", ".join(["%s"] * (len(columns) + 1))
            conn.execute(f"insert into pgqueue.limit_rule ({names}) values ({holes})", [name, *columns.values()])
            if "max_running" in columns:
                self._terms[name] = [Term(_now(conn), NEVER, columns["max_running"])]

    def _caught(self, conn: psycopg.Connection[Any], until: Container[str]) -> bool:
        """Whether one of these is violated by now; looks once a second."""
        if not until or time.monotonic() < self._looks_at:
            return False
        self._looks_at = time.monotonic() + 1
        self._over = any(violation.number in until for violation in self._violations(self._evidence(conn)))
        return self._over

    def _violations(self, turns: Turns) -> list[Violation]:
        return [*check_turns(turns), *self._left, *self._crew.deadlocks()]

    def _rage(self, conn: psycopg.Connection[Any]) -> None:
        """Do what happens in a twentieth of a second."""
        self._enqueue(conn)
        self._audit(conn)
        self._crew.thaw()
        if time.monotonic() > self._strikes_at:
            self._strikes_at = time.monotonic() + STRIKE_SECONDS
            faults = [self._crew.kill, self._crew.freeze, self._change, self._change, self._pause]
            self._plan = self._plan or self._rng.sample(faults, len(faults))
            self._plan.pop()(conn)
            self._look(conn)
        self._resume(conn)
        self._crew.replace()
        time.sleep(0.03)

    def _enqueue(self, conn: psycopg.Connection[Any]) -> None:
        """Enqueue jobs of the lanes that few wait in; sometimes in a transaction that commits after others."""
        if self._open is not None and time.monotonic() > self._open[2]:
            self._commit_late(conn)
        waiting: dict[int, int] = dict(conn.execute(WAITING).fetchall())
        lanes = [flow for flow in self._lanes if waiting.get(flow.lane, 0) < MOST_WAITING]
        chosen = self._rng.choices(lanes, k=self._rng.randint(1, 20)) if lanes else []
        if self._open is None and self._rng.random() < 0.1:
            late = psycopg.connect(self.dsn)
            self._open = late, self._insert(late, chosen), time.monotonic() + self._rng.uniform(0.05, 0.5)
        else:
            self._acknowledged(conn, self._insert(conn, chosen))

    def _commit_late(self, conn: psycopg.Connection[Any]) -> None:
        if self._open is not None:
            late, jobs, _ = self._open
            late.commit()
            late.close()
            self._open = None
            self.counts["commits that came late"] += 1
            self._acknowledged(conn, jobs)

    def _insert(self, conn: psycopg.Connection[Any], chosen: Sequence[Flow]) -> list[int]:
        headers = [json.dumps({"$flow": flow.header()}) for flow in chosen]
        delays = [self._rng.choice([0.0, 0.0, 0.0, 0.2]) for _ in chosen]
        rows = conn.execute(INSERT, (headers, delays)).fetchall()
        self._flows.update((job, Flow.of_header(flow)) for job, flow, _ in rows)
        self._due.update((job, run_at) for job, _, run_at in rows)
        return [job for job, _, _ in rows]

    def _acknowledged(self, conn: psycopg.Connection[Any], jobs: Iterable[int]) -> None:
        self._known.update(dict.fromkeys(jobs, _now(conn)))

    def _audit(self, conn: psycopg.Connection[Any]) -> None:
        self._drifts += [Drift(*row) for row in conn.execute(AUDIT).fetchall()]
        half_open = conn.execute(HALF_OPEN).fetchall()
        self._probes += [row for row in half_open if row[2] > 1]  # type: ignore[misc]
        self.counts["breakers seen half open"] += len(half_open)
        self.counts["audits"] += 1

    def _look(self, conn: psycopg.Connection[Any]) -> None:
        """Explain a claim of plain jobs, and ask why a job waits."""
        with conn.transaction(force_rollback=True):
            plan = explain(conn, Queries("pgqueue").jobs.claim(uuid.uuid4(), {"default": 10}, 10), generic=True)
            row = conn.execute("select count(*) from pgqueue.job_live where state = 'blocked'").fetchone()
            conn.execute("deallocate explained")
        self._looks.append(Look(row[0] if row else 0, buffers(plan)))
        told, untold = ask(conn, self._app, ASKED)
        self.counts.update(f"told: {code}" for code in told)
        self._unsaid += untold

    def _pause(self, conn: psycopg.Connection[Any]) -> None:
        if self._paused is None:
            what = self._rng.choice(PAUSED)
            self._app.pause(why="a storm", **what)  # type: ignore[arg-type]
            self._paused = what, _now(conn), time.monotonic() + self._rng.uniform(0.2, 0.8)
            self.counts["pauses"] += 1

    def _resume(self, conn: psycopg.Connection[Any], *, at_once: bool = False) -> None:
        if self._paused is not None and (at_once or time.monotonic() > self._paused[2]):
            what, since, _ = self._paused
            kind = "key" if "key" in what else next(iter(what))
            self._stops.append(Stop(kind, "/".join(what.values()), since, _now(conn)))
            self._app.resume(**what)
            self._paused = None

    def _change(self, conn: psycopg.Connection[Any]) -> None:
        rule = self._rng.choice(sorted(CHANGES))
        most = self._rng.choice(CHANGES[rule])
        if not self.counts["limits lowered below what ran"]:  # chance alone seldom comes upon it
            rule, most = self._overrun(conn) or (rule, most)
        began = _now(conn)
        if most is not None and conn.execute(OVER, (most, rule)).fetchone() == (True,):
            self.counts["limits lowered below what ran"] += 1
        conn.execute("update pgqueue.limit_rule set max_running = %s where name = %s", (most, rule))
        terms, done = self._terms[rule], _now(conn)
        terms[-1] = Term(terms[-1].since, done, terms[-1].most)
        terms.append(Term(began, NEVER, most))
        self.counts["changes"] += 1

    def _overrun(self, conn: psycopg.Connection[Any]) -> tuple[str, int] | None:
        """Return a rule by which more runs than the least that it may be lowered to, and that least."""
        for rule, values in sorted(CHANGES.items()):
            least = min(value for value in values if value is not None)
            if conn.execute(OVER, (least, rule)).fetchone() == (True,):
                return rule, least
        return None

    def _drain(self, conn: psycopg.Connection[Any]) -> None:
        """Let every job end that can. FL5: none waits on while its buckets have room."""
        self._commit_late(conn)
        self._resume(conn, at_once=True)
        began = time.monotonic()
        ends = began + DRAIN_SECONDS
        while (left := conn.execute(LEFT).fetchall()) and time.monotonic() < ends and not self._hopeless():
            self._audit(conn)
            self._crew.replace()
            time.sleep(0.05)
        self.counts["milliseconds of draining"] = int(1000 * (time.monotonic() - began))
        self._left = [Violation("FL5", f"job {job} of {flow} has not ended") for job, flow in left]

    def _hopeless(self) -> bool:
        """Whether a bug has been seen: then jobs may wait for ever."""
        return self._over or bool(self._drifts)

    def _evidence(self, conn: psycopg.Connection[Any], *, ended: bool = False) -> Turns:
        return Turns(
            flows=self._flows,
            moves=[Move(*row) for row in conn.execute(LOG).fetchall()],
            terms=self._terms,
            rates={
                name: (rule["rate_count"], rule["rate_seconds"]) for name, rule in RULES.items() if "rate_count" in rule
            },
            known=self._known,
            due=self._due,
            attempts={job: (attempt, lease) for job, attempt, lease in conn.execute(EVERY).fetchall()} if ended else {},
            shut=frozenset({"shut"}),
            drifts=self._drifts,
            counters={} if self._left or not ended else dict(conn.execute(COUNTERS).fetchall()),
            stops=self._stops, looks=self._looks, unsaid=self._unsaid, probes=self._probes,
            begun=conn.execute("select * from public.begun").fetchall(),  # type: ignore[arg-type]
        )  # fmt: skip


def _missing(counts: Mapping[str, int], demand: int) -> list[str]:
    return [f"{what}: {counts.get(what, 0)} of {demand}" for what in DEMANDED if counts.get(what, 0) < demand]


def _now(conn: psycopg.Connection[Any]) -> datetime:
    row = conn.execute("select clock_timestamp()").fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


def main() -> int:
    """Run a storm, or one for each seeded bug; return 0 if all was as it must be."""
    from .server import Database, OwnServer

    parser = argparse.ArgumentParser(prog="python -m tests.stress.storm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutants", nargs="*")
    given = parser.parse_args()
    failures, server = 0, OwnServer()
    try:
        names = [""] if given.mutants is None else given.mutants or [*MUTANTS]
        for number, name in enumerate(names):
            database = Database(server, f"storm_{number}")
            result = Storm(database.dsn(), given.seed, name).run(given.seconds, MUTANTS[name].caught_by if name else ())
            found = Counter(violation.number for violation in result.violations)
            right = bool(MUTANTS[name].caught_by & found.keys()) if name else not found
            failures += not right
            print(name or "no bug", "as it must be" if right else "WRONG", dict(found), result.counts, flush=True)
            for number_of in found:
                print("   ", f"{next(v for v in result.violations if v.number == number_of)!s:.300}", flush=True)
            database.drop()
    finally:
        server.stop()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
