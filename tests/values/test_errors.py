"""The tree of errors: as it is drawn, as it is built, and what callers catch."""

import re
from pathlib import Path

import psycopg
import pytest

import pgqueue
from pgqueue import errors
from pgqueue.db.failures import blames_data, brief

ROOT = Path(__file__).parents[2]
# What callers could catch, and the exit codes, before the errors stood in groups.
BEFORE: dict[str, tuple[tuple[type[Exception], ...], int]] = {
    "CannotOpen": ((ValueError,), 1),
    "ConfigError": ((), 78),
    "DatabaseUnreachable": ((), 69),
    "DuplicateJob": ((), 1),
    "IdempotencyConflict": ((), 1),
    "InvalidArguments": ((ValueError,), 2),
    "InvalidOption": ((ValueError,), 2),
    "InvalidPlan": ((ValueError,), 2),
    "InvalidTask": ((TypeError,), 1),
    "CallFailed": ((), 1),
    "JobFailed": ((), 1),
    "JobWasCancelled": ((), 1),
    "LeaseLost": ((), 1),
    "MigrationBlocked": ((), 1),
    "NotAllowed": ((), 78),
    "NotMigrated": ((), 78),
    "QueueFull": ((), 1),
    "ResultMissing": ((LookupError,), 1),
    "ScheduleExists": ((), 2),
    "SnapshotConflict": ((), 1),
    "UnknownJob": ((LookupError,), 1),
    "UnknownKey": ((LookupError,), 78),
    "UnknownQueue": ((LookupError,), 2),
    "UnknownSchedule": ((LookupError,), 1),
    "UnknownTask": ((LookupError,), 2),
    "UnsupportedConnection": ((TypeError,), 1),
    "WaitTimeout": ((TimeoutError,), 1),
}


def drawn(text: str) -> list[tuple[str, str]]:
    """Each class of a drawn tree with its parent, in the order of the drawing."""
    above, edges = ["PgqueueError"], []
    for indent, name in re.findall(r"^((?:│   |    )*[├└]── )(\w+)", text, re.MULTILINE):
        level = len(indent) // 4
        above[level:] = [name]
        edges.append((name, above[level - 1]))
    return edges


def built(parent: type[Exception] = pgqueue.PgqueueError) -> list[tuple[str, str]]:
    """The same of the classes, as the module has them."""
    edges = []
    for kind in parent.__subclasses__():
        if getattr(errors, kind.__name__, None) is kind:
            edges += [(kind.__name__, parent.__name__), *built(kind)]
    return edges


def test_the_tree_that_is_drawn_is_the_tree_of_the_classes() -> None:
    assert drawn(errors.__doc__ or "") == built()


def test_pages_that_draw_the_tree_draw_the_same_one() -> None:
    pages = [page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]]
    assert [drawn(page) for page in pages if "── InvalidInput" in page] == [
        built() for page in pages if "── InvalidInput" in page
    ]


def test_every_error_can_be_imported_from_the_package() -> None:
    for name in ("PgqueueError", *dict(built())):
        assert name in pgqueue.__all__
        assert getattr(pgqueue, name) is getattr(errors, name)


@pytest.mark.parametrize("name", BEFORE)
def test_what_caught_an_error_before_it_had_a_group_catches_it_still(name: str) -> None:
    kind, (bases, exit_code) = getattr(errors, name), BEFORE[name]
    assert issubclass(kind, (pgqueue.PgqueueError,))
    assert all(issubclass(kind, base) for base in bases)
    assert kind.exit_code == exit_code


@pytest.mark.parametrize("kind", [psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement])
def test_prepared_statements_behind_a_pooler_blame_no_data_and_name_the_option(kind: type[psycopg.Error]) -> None:
    error = kind('prepared statement "_pg3_0" does not exist')
    assert not blames_data(error)
    assert "App(pgbouncer=True)" in brief(error)
