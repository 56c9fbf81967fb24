"""What is done on the pages beside the jobs of a filter, as rows of operations: a pause, a request, a value shown."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from pgqueue.app import App
from pgqueue.printable import printable

T = TypeVar("T")
LONGEST = 500  # characters of a text in a row
VIA = "dashboard"
SAID = ("why", "for", "key", "reason", "text")  # fields of a form that the row repeats; arguments may be secret


def recorded(app: App, kind: str, what: Mapping[str, str], form: Mapping[str, str], by: str, do: Callable[[], T]) -> T:
    """Do something for somebody. The row says so before it begins, and afterwards whether it was done, or why not."""
    run, rows = app.backend.pools.run, app.queries.operations
    said = {name: _text(form[name]) for name in SAID if form.get(name, "").strip()}
    operation = run(rows.record(kind, {name: _text(value) for name, value in what.items()}, said, by, VIA))
    try:
        done = do()
    except Exception as error:
        run(rows.fail(operation, _text(str(error))))
        raise
    run(rows.recorded(operation))
    return done


def _text(given: str) -> str:
    """Return a text as JSON in the database can have it: what is no name of anything is asked for, too."""
    return printable(given.strip())[:LONGEST]
