"""Seeded bugs: the same processes with one thing broken, and for each a short run in which the checker must see it.

`python -m tests.stress.mutants NAME work …` is `pgqueue work …` with the bug NAME in it. A mutant that no longer fits
what it wants to break ends its process: a mutant that changes nothing proves nothing.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from pgqueue import cli, scheduler
from pgqueue.client import steps
from pgqueue.process import duty
from pgqueue.queries import dead, workers
from pgqueue.queries.base import Query
from pgqueue.queries.jobs import change, claim, rescue, resolve
from pgqueue.queries.schedules import fire
from pgqueue.worker.claiming import producer
from pgqueue.worker.running import completion

from . import producer as stress_producer
from . import targeted
from .checker import check
from .rewriting import rewrite
from .run import Settings, Stress, stage
from .server import Server


def no_fence() -> None:
    """Write outcomes without the fence of the lease."""
    rewrite(resolve, ["RESOLVE"], ("and j.lease = g.lease", ""))
    rewrite(resolve, ["SUCCEED"], ("then true end", "then true else true end"))


def double_claim() -> None:
    """Claim without SKIP LOCKED and without checking the state again."""
    rewrite(claim, ["CLAIM"], ("for update skip locked", ""), ("and j.state = (select state from picked limit 1)", ""))


def late_charge() -> None:
    """Charge the attempt when it ends, not in the claim."""
    rewrite(claim, ["CLAIM", "ADOPT"], ("attempt = j.attempt + 1", "attempt = j.attempt"))
    rewrite(resolve, ["RESOLVE"], ("attempt = j.attempt - g.refund", "attempt = j.attempt + 1 - g.refund"))


def rescue_by_age() -> None:
    """Rescue jobs that have run for long, whether their worker beats or not."""
    rewrite(
        rescue,
        ["RESCUE"],
        ("from {s}.worker where lost_at is not null", "from {s}.worker"),
        (
            "where j.worker_id = dead.id and j.state = 'running'",
            "where j.worker_id = dead.id and j.state = 'running' and j.claimed_at < now() - interval '1 s'",
        ),
    )


def eager_lost() -> None:
    """Declare workers lost that have not beaten for a twentieth of a lease."""
    rewrite(workers, ["DECLARE_LOST"], ("86400))", "86400) / 20)"))


def two_beats() -> None:
    """Fire schedules without the row lock and without the key."""
    rewrite(fire, ["LOCK_DUE"], ("for update skip locked", ""))
    rewrite(fire, ["RECORD_TICKS"], ("f.tick = t.tick))", "f.tick = t.tick)) on conflict do nothing"))
    fire.FireQueries.recorded_ticks = lambda self, ticks: Query(b"select 1", lambda rows: set())  # type: ignore
    firing = scheduler.Ticker.fire

    async def slowly(self: Any, *most: int) -> int:
        await asyncio.sleep(0.05)  # so that other schedulers read the same tick
        return await firing(self, *most)

    scheduler.Ticker.fire = slowly  # type: ignore[method-assign]


def silent_resolve() -> None:
    """Move jobs without a transition."""
    rewrite(resolve, ["RESOLVE"], ("from moved", "from moved where false"))
    plainly = "select id, 'running', 'succeeded', attempt, lease, worker_id from ended where"
    rewrite(resolve, ["SUCCEED"], (f"{plainly} history", f"{plainly} false"))


def no_poll() -> None:
    """Trust NOTIFY: never poll."""
    start = producer.Producer.__init__

    def trusting(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        self._poll = 3600.0

    async def asleep(self: Any) -> float:
        return 3600.0

    producer.Producer._until_due = asleep  # type: ignore[method-assign]
    producer.Producer.__init__ = trusting  # type: ignore[method-assign]


def keep_strays() -> None:
    """Never release strays."""

    async def nothing(self: Any) -> None:
        self._strays_next = duty.monotonic()

    producer.Producer._release_strays = nothing  # type: ignore[method-assign]


def own_transaction() -> None:
    """Enqueue on a connection of our own, whatever connection the caller passes."""
    start = steps.StepRunner.__init__

    def alone(self: Any, app: Any, conn: Any = None) -> None:
        start(self, app)  # without a connection: one of our own

    steps.StepRunner.__init__ = alone  # type: ignore[method-assign]


def loose_completion() -> None:
    """Complete the job in a transaction of its own, after that of the task."""

    @contextmanager
    def loose(self: Any, result: Any) -> Iterator[Any]:
        with self.connection() as conn:
            with conn.transaction():
                yield conn
            time.sleep(0.2)  # in which it can be killed
            with conn.transaction():
                self._end(conn, self._mark(conn), result)
            self._committed()

    completion.Completion.transaction = loose  # type: ignore[assignment,method-assign]


def stale_attempts() -> None:
    """Bring jobs back with the attempts that they have used."""
    rewrite(dead, ["REDRIVE"], ("created_at, 0, coalesce", "created_at, least(attempt, max_attempts - 1), coalesce"))
    rewrite(change, ["RESTORE"], ("created_at, 0, max", "created_at, least(attempt, max_attempts - 1), max"))


Scenario = Callable[[Stress], Awaitable[None]]


@dataclass(frozen=True)
class Mutant:
    """A bug, the run that shows it, and the invariants of which one at least must be reported."""

    apply: Callable[[], None]
    scenario: Scenario
    caught_by: frozenset[str]
    settings: Settings


TWO = Settings(0, workers=2, schedulers=0, producers=0, quiet_seconds=8.0)
BUSY = Settings(0, workers=3, schedulers=0, producers=2, rate=15, quiet_seconds=10.0, deploys=False)
MUTANTS: dict[str, Mutant] = {
    "no_fence": Mutant(no_fence, targeted.late_write, frozenset({"S8"}), TWO),
    "double_claim": Mutant(double_claim, targeted.busy, frozenset({"S5"}), BUSY),
    "late_charge": Mutant(late_charge, targeted.busy, frozenset({"S10"}), BUSY),
    "silent_resolve": Mutant(silent_resolve, targeted.busy, frozenset({"S11"}), BUSY),
    "rescue_by_age": Mutant(rescue_by_age, targeted.slow_jobs, frozenset({"L2"}), TWO),
    "eager_lost": Mutant(eager_lost, targeted.slow_jobs, frozenset({"L2"}), TWO),
    "two_beats": Mutant(two_beats, targeted.ticks, frozenset({"S16"}), replace(BUSY, producers=0, schedulers=3)),
    "no_poll": Mutant(no_poll, targeted.deaf, frozenset({"L3"}), replace(TWO, workers=1)),
    "keep_strays": Mutant(keep_strays, targeted.lost_claim, frozenset({"L4"}), TWO),
    "loose_completion": Mutant(loose_completion, targeted.killed_while_exact, frozenset({"S9"}), TWO),
    "stale_attempts": Mutant(stale_attempts, targeted.brought_back, frozenset({"S10"}), TWO),
    "own_transaction": Mutant(own_transaction, targeted.busy, frozenset({"S2", "S3"}), BUSY),
}


# Faults that need more time than the nemesis gives them; each must violate nothing.
SCENARIOS: dict[str, tuple[Scenario, Settings]] = {"mute_heartbeat": (targeted.mute_heartbeat, BUSY)}


async def trial(server: Server, name: str, scenario: Scenario, settings: Settings) -> dict[str, int]:
    """Run a scenario; return how often each invariant was violated, and print one violation of each."""
    async with stage(server, settings, name) as stress:
        await stress.up()
        await scenario(stress)
        await stress.still()
        await stress.quiesce()
        violations = check(stress.evidence(await stress.down()))
    found: dict[str, int] = {}
    for violation in violations:
        if violation.number not in found:
            print(f"    {violation!s:.300}", flush=True)
        found[violation.number] = found.get(violation.number, 0) + 1
    return found


async def see_them_caught(server: Server, names: Sequence[str], seed: int) -> int:
    """Run each mutant and its control; return 0 if the checker saw all of the bugs and nothing else."""
    failures = 0
    loop = asyncio.get_running_loop()
    for name in names or MUTANTS:
        for broken in (True, False):
            began = loop.time()
            mutant = MUTANTS[name]
            settings = replace(mutant.settings, seed=seed, mutant=name if broken else "")
            try:
                found = await trial(server, f"{'mutant' if broken else 'control'}_{name}", mutant.scenario, settings)
            except RuntimeError as error:  # the mutant does not fit any more, or the scenario leads elsewhere
                print(f"    {error}")
                found = {} if broken else {"RUN": 1}
            right = bool(mutant.caught_by & found.keys()) if broken else not found
            failures += not right
            verdict = ("caught" if broken else "clean") if right else ("MISSED" if broken else "FALSE ALARM")
            took = timedelta(seconds=round(loop.time() - began))
            kind = "mutant " if broken else "control"
            print(f"{name:16} {kind} {verdict:11} by {found or '-'} in {took}", flush=True)
    return 1 if failures else 0


async def play(server: Server, name: str, seed: int) -> int:
    """Run one scenario without any bug of ours; return 0 if it violated nothing."""
    scenario, settings = SCENARIOS[name]
    found = await trial(server, name, scenario, replace(settings, seed=seed))
    print(f"{name}: violations {found or 'none'}")
    return 1 if found else 0


def main() -> None:
    """Apply the bug that the first argument names, then be `pgqueue`."""
    name = sys.argv.pop(1)
    MUTANTS[name].apply()
    if sys.argv[1] == "producer":
        del sys.argv[1]
        stress_producer.main()
    else:
        cli.main()


if __name__ == "__main__":
    main()
