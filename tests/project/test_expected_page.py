"""The page of what users of other queues expect: each line names tests that exist, and that somebody runs."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
PAGE = (ROOT / "docs" / "expected.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()
ITEMS = 149
ROW = re.compile(r"^\| (\d+) \| (.+) \|$", re.MULTILINE)


@cache
def marks(path: str) -> dict[str, set[str]]:
    """The tests of a file, each with its marks and those of the file."""
    tree = ast.parse((TESTS / path).read_text())
    of_file = {
        mark
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
        for mark in marks_in(node.value)
    }
    return {
        node.name: of_file.union(*map(marks_in, node.decorator_list))
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }


def marks_in(node: ast.expr) -> set[str]:
    """The marks of pytest that an expression names."""
    return set(re.findall(r"pytest\.mark\.(\w+)", ast.unparse(node)))


def runs(found: set[str]) -> bool:
    """Whether anybody runs a test with these marks: it is not always skipped, and no run of its own that CI lacks."""
    own_run = found & {"stress", "servers", "browser"}
    return "skip" not in found and all(f"pytest -m {mark}" in CI for mark in own_run)


def faults(page: str) -> list[str]:
    """What is wrong with the page."""
    rows = ROW.findall(page)
    told = [] if [int(number) for number, _ in rows] == [*range(1, ITEMS + 1)] else ["the numbers are not 1 to 149"]
    for number, row in rows:
        tests = row.rpartition(" | ")[2]
        if tests == "not yet":
            continue
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
        if not named or ", ".join(f"`{path}::{name}`" for path, name in named) != tests:
            told.append(f"{number} names no tests: {tests}")
        for path, name in named:
            if not (TESTS / path).is_file() or name not in marks(path):
                told.append(f"{number} names {path}::{name}, which does not exist")
            elif not runs(marks(path)[name]):
                told.append(f"{number} names {path}::{name}, which nobody runs")
    return told


def test_each_line_names_tests_that_exist_and_run() -> None:
    assert faults(PAGE) == []


FIRST = "client/test_enqueue.py::test_commit_makes_the_job_and_the_business_row_visible_together"
SECOND = "edges/celery/test_calls.py::test_a_call_is_a_job_whose_arguments_stand_by_name"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("| 7 |", "| 8 |", "the numbers are not 1 to 149"),
        (f"`{FIRST}`", f"`{FIRST}_or_not`", f"1 names {FIRST}_or_not, which does not exist"),
        (
            f"`{FIRST}`",
            "`client/test_nothing.py::test_x`",
            "1 names client/test_nothing.py::test_x, which does not exist",
        ),
        (f"`{FIRST}`, ", "works, ", "1 names no tests: works, "),
        (f"`{SECOND}` |", "not now |", "2 names no tests: not now"),
        (
            f"`{FIRST}`",
            "`project/test_storm.py::test_a_long_storm_exceeds_no_limit_and_loses_nothing`",
            "1 names project/test_storm.py::test_a_long_storm_exceeds_no_limit_and_loses_nothing, which nobody runs",
        ),
    ],
)
def test_a_spoilt_page_is_seen(old: str, new: str, fault: str) -> None:
    spoilt = faults(PAGE.replace(old, new, 1))
    assert any(told.startswith(fault) for told in spoilt), spoilt


def test_a_test_that_is_always_skipped_is_run_by_nobody() -> None:
    assert not runs({"parametrize", "skip"})
    assert not runs({"stress"})
    assert runs({"parametrize", "skipif", "servers"})
