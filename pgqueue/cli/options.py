"""Options and arguments that several commands share, and how the text given for them is read.

A command is a function whose parameters are its options, so commands may have more than six.
"""

import json
import re
from typing import Annotated, Any

import typer

from pgqueue.cli.completion import complete_task
from pgqueue.errors import InvalidArguments, InvalidOption

AppRef = Annotated[str | None, typer.Option("-A", "--app", help="The app, as module:attr. Default: PGQUEUE_APP.")]
Dsn = Annotated[str | None, typer.Option(help="The database. Default: the app's, PGQUEUE_DSN or DATABASE_URL.")]
Schema = Annotated[
    str | None,
    typer.Option(help="The schema of pgqueue's tables. Default: the app's, or pgqueue.", show_default=False),
]
Schemas = Annotated[
    list[str] | None,
    typer.Option(
        "--schema",
        help="The schema of pgqueue's tables. May be repeated, and may be a pattern of those that there are: tenant_*. "
        "Default: the app's, or pgqueue.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

TaskName = Annotated[str, typer.Argument(help="The task's name.", autocompletion=complete_task)]
TaskArgs = Annotated[str, typer.Argument(help="The task's arguments as a JSON object.")]
Limit = Annotated[int, typer.Option("-n", "--limit", min=1, help="List at most this many.")]
Before = Annotated[int | None, typer.Option(help="Only ids below this one: the next page.")]

LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Write log lines as JSON.")]
Lease = Annotated[float, typer.Option(help="Seconds without a heartbeat after which the process counts as lost.")]
Poll = Annotated[float, typer.Option(help="Seconds between polls of the database if nothing else wakes the process.")]


def read_queue_limit(text: str) -> tuple[str, int]:
    """Read `queue=number`. Raises InvalidOption."""
    queue, _, number = text.partition("=")
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise InvalidOption(f"--limit {text!r:.100} cannot be used: give queue=number, for example bulk=2")
    return queue, int(number)


def read_arguments(task: str, text: str) -> dict[str, Any]:
    """Read the arguments of a task, a JSON object. Raises InvalidArguments."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArguments(task, [f"{text!r} is not JSON: {error}"]) from None
    if not isinstance(value, dict):
        raise InvalidArguments(task, [f'{text!r} is no JSON object: name the arguments, as in {{"order_id": 1}}'])
    return value
