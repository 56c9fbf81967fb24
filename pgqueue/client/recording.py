"""What people do in one step, beside the jobs of a filter, as rows of operations: a pause, a request, a value shown."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.printable import printable

T = TypeVar("T")
LONGEST = 500  # characters of a text in a row


class RecordedStep(NamedTuple):
    """What somebody does: its kind, to what (`{"queue": "email"}`), with which options, who, and through what.

    Names and options without a value are left out. Arguments of jobs may be secret, and are no option.
    """

    kind: str
    what: Mapping[str, object]
    options: Mapping[str, object]
    by: str | None
    via: str


def recorded(app: AppParts, step: RecordedStep, do: Callable[[], T]) -> T:
    """Do something for somebody. The row says so before it begins, and afterwards whether it was done, or why not.

    Raises what `do` raises, and InvalidOption for an actor whose name cannot be used.
    """
    run, rows = app.backend.pools.run, app.queries.operations
    what, options = ({name: _text(value) for name, value in given.items() if value} for given in step[1:3])
    operation = run(rows.record(step.kind, what, options, who(step.by), step.via))
    try:
        done = do()
    except Exception as error:
        run(rows.fail(operation, _text(error)))
        raise
    run(rows.recorded(operation))
    return done


def _text(given: object) -> str:
    """Return a text as JSON in the database can have it: also what is no name of anything is asked for."""
    return printable(str(given).strip())[:LONGEST]
