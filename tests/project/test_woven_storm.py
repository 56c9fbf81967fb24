"""Storms over workflows, steps and events violate nothing; seeded bugs in them are seen."""

from pathlib import Path

import psycopg
import pytest

from tests.stress.acts import ACTS, EFFECTS, FAULTS, missing
from tests.stress.checks_woven import check_woven
from tests.stress.graph_crew import Weather
from tests.stress.graph_storm import GraphStorm, Result
from tests.stress.plans import LARGE, plan
from tests.stress.scene import Scene
from tests.stress.script import SCENES
from tests.stress.storm import DEMANDED
from tests.stress.storm_mutants import MUTANTS as METERED_MUTANTS
from tests.stress.violation import Violation
from tests.stress.woven import load
from tests.stress.woven_mutants import MUTANTS, seeded
from tests.stress.woven_scenarios import SCENARIOS
from tests.stress.woven_shop import TABLES

ROOT = Path(__file__).parents[2]


def play(dsn: str, scenario: str, mutant: str = "") -> list[Violation]:
    """Play a scenario, with a seeded bug if one is named; return what is violated."""
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=") as conn:
        conn.execute("drop schema if exists stress cascade")
        conn.execute(TABLES)
        scene = Scene(conn, dsn)
        with seeded(mutant):
            SCENARIOS[scenario](scene)
        return [*scene.seen, *check_woven(load(dsn, scene.graphs))]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_seeded_bug_in_workflows_or_steps_is_seen(emptied_dsn: str, name: str) -> None:
    mutant = MUTANTS[name]
    found = play(emptied_dsn, mutant.scenario, name)
    assert mutant.caught_by & {violation.number for violation in found}, found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_without_a_bug_violates_nothing(emptied_dsn: str, scenario: str) -> None:
    assert play(emptied_dsn, scenario) == []


def test_what_has_no_meaning_is_drawn_anew() -> None:
    assert plan("w.small.v12_11_4").graph.nodes  # its first drawing calls back with a result where there is none


def test_a_storm_lacks_each_act_that_nobody_has_performed_and_each_effect_that_did_not_come_about() -> None:
    enough = dict.fromkeys(ACTS, 1) | dict.fromkeys((*FAULTS, *EFFECTS), 5)
    assert missing(enough, 5) == {}
    for what, count in enough.items():
        assert missing(enough | {what: count - 1}, 5) == {what: f"{count - 1} of {count}"}
    assert SCENES.keys() == set(EFFECTS)  # each can be played from the script


def test_the_page_of_guarantees_counts_acts_effects_and_seeded_bugs() -> None:
    page = " ".join((ROOT / "docs" / "guarantees.md").read_text().split())
    for told in (
        f"perform {len(ACTS)} acts", f"{len(EFFECTS)} more effects", f"{len(MUTANTS)} seeded bugs),",
        f"{len(DEMANDED)} things must have happened", f"with {len(METERED_MUTANTS)} seeded bugs",
    ):  # fmt: skip
        assert told in page


def whole(result: Result) -> str:
    """All that a storm has shown, as one text, of which pytest cuts nothing: it will not come the same way again."""
    return "\n".join([str(result.counts), str(result.missing), *map(str, result.violations)])


# A storm has a database of its own: it counts the deadlocks of the database, and a seeded bug brings one about.
def test_a_storm_over_workflows_violates_nothing_and_each_act_has_an_effect(dsn: str) -> None:
    result = GraphStorm(dsn, Weather(4.0, seed=7, pause=0.04, strike=0.6)).run()
    assert result.violations == [], whole(result)
    assert result.missing == {}, whole(result)
    assert result.counts["jobs"] > 60, result.counts
    assert min(result.counts.get(what, 0) for what in ("jobs released", "steps")) > 0, result.counts


@pytest.mark.stress
@pytest.mark.parametrize("seed", [41, 42, 43])
def test_a_long_storm_over_large_workflows_violates_nothing_and_each_act_has_effects(dsn: str, seed: int) -> None:
    result = GraphStorm(dsn, Weather(150.0, seed, LARGE, strike=3.0, demand=5)).run()
    assert result.violations == [], whole(result)
    assert result.missing == {}, whole(result)
