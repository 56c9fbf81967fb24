"""The SQL under `sql/` is what pgqueue sends, all of it, and each seeded bug finds the SQL that it breaks."""

import os
import pkgutil
from collections.abc import Iterator
from importlib import import_module

import pytest

import pgqueue.queries
from pgqueue.queries import Queries
from pgqueue.queries.base import Templates
from tests.statements import snapshots
from tests.statements.test_queries import SAMPLES
from tests.stress.mutants import MUTANTS

RENEW = "the statements have changed: run `python -m tests.statements.snapshots` and review the diff"


def test_the_snapshots_are_current() -> None:
    assert snapshots.stored() == snapshots.rendered(), RENEW


def templates() -> Iterator[tuple[str, str]]:
    """Every template of a whole statement, by its place."""
    for module in pkgutil.walk_packages(pgqueue.queries.__path__, "pgqueue.queries."):
        if module.name == "pgqueue.queries.testing":  # statements that only tests run
            continue
        for name, value in vars(import_module(module.name)).items():
            verbs = ("with ", "select", "insert ", "update ", "delete ", "listen ", "do ")
            public = name.isupper() and not name.startswith("_")
            if public and isinstance(value, str) and value.lstrip().startswith(verbs):
                yield f"{module.name}.{name}", value


def test_each_template_has_a_snapshot() -> None:
    render = Templates("pgqueue").render
    sent = {make(Queries("pgqueue")).sql for make in SAMPLES.values()}
    assert [place for place, template in templates() if render(template) not in sent] == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_seeded_bug_finds_what_it_breaks(name: str) -> None:
    child = os.fork()  # a bug changes the modules of its process
    if child == 0:
        try:
            MUTANTS[name].apply()
        except BaseException as error:  # noqa: BLE001 - a child of a test must not go on as one
            print(error)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
