"""Checks: what one may ask, and how it is declared and run."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Protocol, TypeVar

from pgqueue import db
from pgqueue.db.failures import brief
from pgqueue.doctor.finding import Finding, Kind, Severity
from pgqueue.doctor.limits import Limits
from pgqueue.queries import Queries, Query
from pgqueue.queries.base import statement_timeout
from pgqueue.tasks.registry import Tasks

T = TypeVar("T")
MOST = 50  # findings of one check; who has mended these asks again

CANNOT_SEE = Kind(
    "cannot-see",
    Severity.INFO,
    "The role may not see what a check asks for, so the check proves nothing.",
    "`grant pg_read_all_stats to …;` or what the finding names",
)
NOT_CHECKED = Kind(
    "not-checked",
    Severity.WARN,
    "A check failed: a right is missing, a table is missing, or it took longer than two seconds.",
    "what the error says; then `pgqueue doctor --only ID`",
)
GENERAL = (CANNOT_SEE, NOT_CHECKED)


class Patient(Protocol):
    """The parts of an app that the doctor looks at. `App` has them."""

    tasks: Tasks

    @property
    def schema(self) -> str: ...
    @property
    def database(self) -> db.Database: ...
    @property
    def queries(self) -> Queries: ...


@dataclass(slots=True)
class Exam:
    """One examination: the app, the connection that all checks share, the limits, and this machine's clock."""

    app: Patient
    limits: Limits
    clock: Callable[[], datetime]
    conn: db.Connection

    @property
    def queries(self) -> Queries:
        """The statements of the app's schema."""
        return self.app.queries

    @property
    def schema(self) -> str:
        """The name of the schema, as SQL may have it: App allows none that needs quotes."""
        return self.app.schema

    def ask(self, query: Query[T]) -> T:
        """Run a statement of a check."""
        return db.run(self.conn, query)


class Needs(Enum):
    """Without which a check makes no sense, and is not made."""

    SERVER = "a server"
    TABLES = "pgqueue's tables"
    TASKS = "pgqueue's tables, and an app that has tasks"


Look = Callable[[Exam], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check: the kinds of findings that it may have, the function that looks, and without what it is not made."""

    kinds: tuple[Kind, ...]
    look: Look
    needs: Needs = Needs.TABLES

    def run(self, exam: Exam) -> Iterator[Finding]:
        """Look, in a transaction that ends each statement after its time. Whatever goes wrong is a finding."""
        try:
            with exam.conn.transaction():
                exam.ask(statement_timeout(exam.limits.check_seconds))
                found = list(islice(self.look(exam), MOST))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other checks go on
            names = ", ".join(kind.id for kind in self.kinds)
            why = f"{type(error).__name__}: {brief(error)}"
            yield NOT_CHECKED.found(f"{names} could not be checked: {why}", f"pgqueue doctor --only {self.kinds[0].id}")
        else:
            yield from found


def finds(*kinds: Kind, needs: Needs = Needs.TABLES) -> Callable[[Look], Check]:
    """Make a check of a function: `@finds(KIND, …)` above one that takes an Exam and yields findings of these kinds."""
    return lambda look: Check(kinds, look, needs)
