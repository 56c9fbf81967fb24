"""What people do in one step, beside the jobs of a filter, as rows of operations: a pause, a request, a value shown."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, TypeVar

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.db.failures import DATABASE_ERRORS
from pgqueue.errors import InvalidArguments
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


class Counts(NamedTuple):
    """How many jobs were changed, and how many were left."""

    done: int
    skipped: int = 0


def recorded(app: AppParts, step: RecordedStep, do: Callable[[], T], count: Callable[[T], Counts] | None = None) -> T:
    """Do something for somebody. The row says so before it begins, and afterwards whether it was done, or why not.

    `count` says of what was done how many jobs it concerned; without it the row has 1.

    Where the database is gone by then, the row stands as it began. Raises what `do` raises; and InvalidOption for an
    actor whose name cannot be used.
    """
    run, rows = app.backend.pools.run, app.queries.operations
    what, options = ({name: _text(value) for name, value in given.items() if value} for given in step[1:3])
    operation = run(rows.record(step.kind, what, options, who(step.by), step.via))
    try:
        done = do()
    except Exception as error:
        with suppress(*DATABASE_ERRORS):  # the row then stands as it began: not done
            run(rows.fail(operation, _why(error)))
        raise
    with suppress(*DATABASE_ERRORS):  # likewise: it is done all the same
        run(rows.recorded(operation) if count is None else rows.counted(operation, *count(done)))
    return done


def _why(error: Exception) -> str:
    """Return why something could not be done, without values of arguments: what a task's own validators say of an
    argument may quote it. Whoever has given it sees the whole error."""
    if isinstance(error, InvalidArguments):
        return _text(f"{error.task} does not take the arguments: what is wrong is not kept, for it may quote them")
    return _text(error)


def _text(given: object) -> str:
    """Return a text as JSON in the database can have it: also what is no name of anything is asked for."""
    return printable(str(given).strip())[:LONGEST]
