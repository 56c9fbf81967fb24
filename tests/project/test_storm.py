"""Storms over metered jobs: four processes, killed, frozen and rescued from, exceed nothing; seeded bugs are seen."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgqueue.jobs.flow import Flow
from tests.stress.storm import Storm
from tests.stress.storm_mutants import MUTANTS
from tests.stress.turns import NEVER, Drift, Look, Move, Stop, Term, Turns, check_turns

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DEFAULT_MUTANTS = ("no_lock",)


FLOWS = {1: Flow(("r/a",)), 2: Flow(("r/a",)), 3: Flow(("o",), order="o"), 4: Flow(("o",), order="o")}
TERMS = {"r": [Term(NOON - timedelta(hours=1), NEVER, 1)], "o": [Term(NOON - timedelta(hours=1), NEVER, 1)]}


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def run(job: int, began: float, ended: float, target: str = "succeeded") -> list[Move]:
    """The log of an attempt."""
    return [Move(at(began), job, "blocked", "running"), Move(at(ended), job, "running", target)]


def story(*moves: list[Move], **more: Any) -> Turns:
    """What a log proves of four jobs, of which one and two share a bucket for one, and three and four run in order."""
    log = sorted((move for some in moves for move in some), key=lambda move: move.at)
    enqueued = [Move(at(-9), job, None, "blocked") for job in FLOWS]
    known = {"known": dict.fromkeys(FLOWS, at(-9)), "due": {job: at(job / 100 - 9) for job in FLOWS}}
    return Turns(FLOWS, [*enqueued, *log], **{"terms": TERMS, "rates": {}, **known, **more})


def cancelled(job: int, moment: float, reason: str) -> list[Move]:
    return [Move(at(moment), job, "blocked", "cancelled", reason)]


REPLACED = "replaced by a newer job: r/a is full"


@pytest.mark.parametrize(
    "right",
    [
        story(run(1, 0, 1), run(2, 1, 2), run(3, 0, 1), run(4, 1, 2)),
        story(run(3, 0, 1, "blocked"), run(3, 2, 3, "failed"), run(4, 4, 5)),
        story(run(4, 0, 1), run(3, 2, 3), known={3: at(-1), 4: at(-9)}),
        story(run(2, 0, 1), cancelled(1, 0.5, "skipped: r/a is full")),
        story(run(1, 0, 1), run(2, 0.5, 1), terms={"r": [Term(at(-9), at(0.1), 2), Term(at(0), NEVER, 1)]}),
        story(run(1, 0, 0.1), run(2, 1, 2), rates={"r": (1, 1.0)}),
        story(run(1, 0, 1), attempts={1: (1, 1), 2: (0, 0)}),
        story(
            stops=[Stop("limit", "r", at(0), at(2))],
            begun=[(3, at(1), at(1)), (1, at(-1), at(1)), (1, at(1), at(3))],
        ),
    ],
)
def test_a_right_log_proves_no_violation(right: Turns) -> None:
    assert check_turns(right) == []


@pytest.mark.parametrize(
    ("number", "spoilt"),
    [
        ("FL1", story(run(1, 0, 1), run(2, 0.5, 1.5))),
        ("FL1", story(run(1, 5, 7), run(2, 6, 7), terms={"r": [Term(at(-9), at(1), 2), Term(at(0), NEVER, 1)]})),
        ("FL2", story(drifts=[Drift(NOON, "r/a", 1, 2, 1)])),
        ("FL2", story(counters={"r/a": 1})),
        ("FL2", story(reconciled=["the counter of r/a said 2 and is 1"])),
        ("FL3", story(run(1, 0, 0.1), run(2, 0.9, 1), rates={"r": (1, 1.0)})),
        ("FL4", story(run(4, 0, 1))),
        ("FL4", story(run(3, 0, 1, "blocked"), run(4, 2, 3), known={})),
        ("FL8", story(attempts={1: (1, 1)})),
        ("FL8", story(run(1, 0, 1), attempts={1: (2, 1)})),
        ("FL8", story(run(1, 0, 1), shut=frozenset({"r/a"}))),
        ("FL8", story([Move(at(0), 1, "blocked", "pending")])),
        ("FL9", story(cancelled(1, 0.5, "skipped: r/a is full"))),
        ("FL9", story(run(2, -5, 1), cancelled(1, 0.5, REPLACED))),
        ("FL9", story([Move(at(0.5), 1, "running", "cancelled", REPLACED)], run(2, 0, 1))),
        ("FL6", story(looks=[Look(10, 20), Look(5000, 900)])),
        ("FL7", story(stops=[Stop("limit", "r", at(0), at(2))], begun=[(1, at(1), at(1))])),
        ("FL7", story(stops=[Stop("key", "r/a", at(0), at(2))], begun=[(2, at(1), at(1))])),
        ("FL7", story(stops=[Stop("queue", "default", at(0), at(2))], begun=[(3, at(1), at(1))])),
        ("FL10", story(unsaid=[(1, "full r/a")])),
        ("FL12", story(probes=[(NOON, "r/a", 2)])),
    ],
)
def test_a_spoilt_log_is_seen_by_the_invariant_it_breaks(number: str, spoilt: Turns) -> None:
    assert number in numbers(spoilt)


def numbers(turns: Turns) -> set[str]:
    return {violation.number for violation in check_turns(turns)}


def test_a_storm_over_metered_jobs_exceeds_no_limit_and_loses_nothing(dsn: str) -> None:
    result = Storm(dsn, seed=7).run(7.0)
    assert result.violations == [], result.counts
    assert result.counts["claims"] > 150, result.counts
    assert result.missing == [], result.counts


@pytest.mark.stress
@pytest.mark.parametrize("seed", [31, 32, 33])
def test_a_long_storm_exceeds_no_limit_and_loses_nothing(dsn: str, seed: int) -> None:
    result = Storm(dsn, seed).run(60.0, demand=5)
    assert result.violations == [], result.counts
    assert result.missing == [], result.counts


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in DEFAULT_MUTANTS else pytest.mark.stress) for name in MUTANTS]
)
def test_a_seeded_bug_in_the_turns_is_seen(dsn: str, name: str) -> None:
    result = Storm(dsn, seed=5, mutant=name).run(30.0, MUTANTS[name].caught_by)
    assert MUTANTS[name].caught_by & {violation.number for violation in result.violations}, result.counts
