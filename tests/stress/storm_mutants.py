"""Seeded bugs in the turns of metered jobs, each with the invariant that a storm must see broken."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pgqueue.client import why
from pgqueue.queries import why_turns
from pgqueue.queries.jobs import claim as plain_claim
from pgqueue.queries.jobs import rescue, resolve
from pgqueue.queries.turns import claim
from pgqueue.worker.claiming import roster

from .rewriting import rewrite

NOTED = "tat = greatest(u.tat, (select at from instant))"


def no_lock(_: int) -> None:
    """Read the counter of a bucket without locking it."""
    rewrite(claim, ["CLAIM_TURNS"], ("u.version >= s.version for update) as u", "u.version >= s.version) as u"))


def counted_rows(_: int) -> None:
    """Count the jobs that run, in the snapshot of the claim, instead of reading the counter."""
    running = """(select count(*)::int from {s}.job_live x where x.worker_id is not null
        and x.headers -> '$flow' -> 'buckets' @> jsonb_build_array(u.name))"""
    limit = "coalesce(k.max_running, r.max_running) -"
    rewrite(claim, ["CLAIM_TURNS"], (f"{limit} u.running", f"{limit} {running}"))


def rescue_keeps(_: int) -> None:
    """Rescue jobs without giving their buckets back."""
    rewrite(rescue, ["RESCUE"], ("from moved where headers::jsonb ? '$flow'::text", "from moved where false"))


def strays_twice(_: int) -> None:
    """Give the buckets of strays back twice."""
    old = "from (select headers from requeued union all"
    rewrite(rescue, ["RELEASE_STRAYS"], (old, f"{old} select headers from requeued union all"))


def clock_of_worker(seed: int) -> None:
    """Note the next start of a rate by the clock of the worker: that of every second one is two seconds behind."""
    behind = f"now() - interval '{seed % 2 * 2} s'"
    rewrite(claim, ["CLAIM_TURNS"], (NOTED, f"tat = greatest(u.tat, {behind})"))


def rate_unwritten(_: int) -> None:
    """Never note the next start of a rate."""
    rewrite(claim, ["CLAIM_TURNS"], (f"{NOTED} +", "tat = u.tat + 0 *"))


def places_believed(_: int) -> None:
    """Begin an ordered lane, too, after the last job that this worker has claimed from it."""
    rewrite(
        claim,
        ["CLAIM_TURNS", "CLAIM_FIRST"],
        (
            "and j.priority::smallint = o.priority order by",
            "and j.priority::smallint = o.priority and j.id > o.id order by",
        ),
    )
    claimed = roster.Roster.claimed

    def noting(self: Any, queue: str, lines: Any, jobs: Any, room: int) -> bool:
        for key, of_lane in jobs.items():
            lane = self._lanes.get((queue, *key))
            if lane is not None:
                lane.place = max([(job.run_at, job.id) for job in of_lane] + [lane.place] * (lane.place is not None))
        return claimed(self, queue, lines, jobs, room)

    roster.Roster.claimed = noting  # type: ignore[method-assign]
    roster._start = lambda lane: lane.place or (None, 0)


def plain_success(_: int) -> None:
    """Let the statement for plain successes end metered jobs."""
    rewrite(resolve, ["SUCCEED"], ("and j.lane is null", ""))
    resolve.SUCCEED_METERED = resolve.SUCCEED


def unsorted_claims(_: int) -> None:
    """Lock the buckets of a claim in any order."""
    rewrite(claim, ["CLAIM_TURNS"], ('order by b.name collate "C"', "order by random()"))


def unsorted_ends(_: int) -> None:
    """Lock the buckets of jobs that end in any order."""
    rewrite(resolve, ["RESOLVE_METERED", "SUCCEED_METERED"], ('order by g.name collate "C"', "order by random()"))


def fresh_ends(_: int) -> None:
    """Read what was given back as it is by now, and not as the snapshot has it that shows which job is the first."""
    newest = """lateral (select version from {s}.limit_freed where name = h.name order by version desc limit 1) as s
            cross join lateral (
                select * from {s}.limit_freed f where f.name = any(array[h.name]) and f.version >= s.version for update)
            as f) as u"""
    shown = "( select f.* from {s}.limit_freed f where f.name = h.name order by f.version desc limit 1) as f) as u"
    rewrite(claim, ["CLAIM_TURNS", "CLAIM_FIRST"], (f"lateral {shown}", newest))


CLAIMS = ["CLAIM_TURNS", "CLAIM_LANE", "CLAIM_FIRST"]
LIMIT_PAUSED = "case when r.paused_at is not null and (r.paused_until is null or r.paused_until > now()) or"
HALF_OPEN = "case when r.breaker_failures is not null and u.opened > 0 then 1 - u.running end,"


def pause_ignored(_: int) -> None:
    """Claim whether the limit is paused or not."""
    rewrite(claim, CLAIMS, (LIMIT_PAUSED, "case when false or"))


def many_probes(_: int) -> None:
    """Let a breaker that is half open admit as many jobs as any other bucket."""
    rewrite(claim, CLAIMS, (HALF_OPEN, ""))


def steps_over_metered(_: int) -> None:
    """Claim plain jobs from all that wait, and step over those that wait for their turn."""
    rewrite(
        plain_claim,
        ["CLAIM"],
        ("where j.state = 'pending' and j.queue::text", "where j.state in ('pending', 'blocked') and j.queue::text"),
        ("and j.run_at::timestamptz <= now() and (j.run_at", "and j.lane is null and j.run_at <= now() and (j.run_at"),
    )


def untold_room(_: int) -> None:
    """Say why a job waits by the end of each limit, as if none of its jobs ran."""
    rewrite(why_turns, ["BUCKETS"], ("coalesce(u.running, 0),", "0,"))


def untold_order(_: int) -> None:
    """Do not say which job goes first in an order."""
    of_place = why.of_place
    why.of_place = lambda job, place: (reason for reason in of_place(job, place) if reason.code != "order")


@dataclass(frozen=True)
class StormMutant:
    """A bug, which gets the number of the worker that it is put into, and the invariants one of which it breaks.

    `in_looks`: it is put into the process of the storm, which looks at plans and asks why jobs wait.
    """

    apply: Callable[[int], None]
    caught_by: frozenset[str]
    in_looks: bool = False


MUTANTS = {
    "no_lock": StormMutant(no_lock, frozenset({"FL1"})),
    "counted_rows": StormMutant(counted_rows, frozenset({"FL1"})),
    "rescue_keeps": StormMutant(rescue_keeps, frozenset({"FL2"})),
    "strays_twice": StormMutant(strays_twice, frozenset({"FL2"})),
    "clock_of_worker": StormMutant(clock_of_worker, frozenset({"FL3"})),
    "rate_unwritten": StormMutant(rate_unwritten, frozenset({"FL3"})),
    "places_believed": StormMutant(places_believed, frozenset({"FL4"})),
    "plain_success": StormMutant(plain_success, frozenset({"FL2"})),
    "unsorted_claims": StormMutant(unsorted_claims, frozenset({"deadlock"})),
    "unsorted_ends": StormMutant(unsorted_ends, frozenset({"deadlock"})),
    "fresh_ends": StormMutant(fresh_ends, frozenset({"FL4"})),
    "pause_ignored": StormMutant(pause_ignored, frozenset({"FL7"})),
    "many_probes": StormMutant(many_probes, frozenset({"FL12"})),
    "steps_over_metered": StormMutant(steps_over_metered, frozenset({"FL6"}), in_looks=True),
    "untold_room": StormMutant(untold_room, frozenset({"FL10"}), in_looks=True),
    "untold_order": StormMutant(untold_order, frozenset({"FL10"}), in_looks=True),
}
LOOKED_AT = (plain_claim, why_turns, why)


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Have a bug in this process for as long as a block lasts, if it is one of those that are put there."""
    kept = [(module, dict(vars(module))) for module in LOOKED_AT]
    try:
        if name and MUTANTS[name].in_looks:
            MUTANTS[name].apply(0)
        yield
    finally:
        for module, before in kept:
            vars(module).update(before)
