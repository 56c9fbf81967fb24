"""What every command shares: the options that name the app or its database, and `--json`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from typing import Any, TypeVar

import typer

from pgqueue.app import App
from pgqueue.cli import output
from pgqueue.cli.load import app_or_default
from pgqueue.cli.options import AppRef, AsJson, Dsn, Schema
from pgqueue.client.recording import RecordedStep, recorded
from pgqueue.config import find_app
from pgqueue.queries import Query

T = TypeVar("T")
_COMMON = [
    Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, annotation, default in (
        ("app", AppRef, None), ("dsn", Dsn, None), ("schema", Schema, "pgqueue"), ("as_json", AsJson, False)
    )
]  # fmt: skip


@dataclass
class Call:
    """One call of a command: its options `--app`, `--dsn` and `--schema`, and the app that they name.

    `exit_code`: the status with which the command ends after it has printed what it returns.
    """

    reference: str | None
    dsn: str | None
    schema: str
    exit_code: int = 0

    @cached_property
    def app(self) -> App:
        """The app that `--app` or PGQUEUE_APP names, else one that knows only the database. Loaded on first use."""
        app = app_or_default(self.reference, self.dsn, self.schema)
        app.binding = None  # there is no request here whose transaction a verb could join
        return app

    def check_task(self, task: str) -> None:
        """Raise UnknownTask if an app is named and has no such task: a job of it would wait for ever."""
        if find_app(self.reference):
            self.app.tasks[task]

    def run(self, query: Query[T]) -> T:
        """Run one query on a connection of the app's own."""
        return self.app.backend.pools.run(query)

    def recorded(self, kind: str, what: Mapping[str, object], by: str | None, do: Callable[[], T], **options: Any) -> T:
        """Do something of which the row of an operation says who has done it, and with which options."""
        return recorded(self.app, RecordedStep(kind, what, options, by, "cli"), do)

    def close(self) -> None:
        """Close the app, if the command has loaded it."""
        if "app" in self.__dict__:
            self.app.close()


def command(
    group: typer.Typer, name: str, show: Callable[[Any], object], *, has_json: bool = True
) -> Callable[[Callable[..., Any]], None]:
    """Make a function a command of `group`.

    The function gets a Call, then its own options. `show` prints what it returns; with `--json` that is printed as
    JSON. Typer reads a command's options from its signature, so the shared ones are
    appended to the function's own.
    """
    common = _COMMON if has_json else _COMMON[:-1]

    def register(function: Callable[..., Any]) -> None:
        def run(app: str | None, dsn: str | None, schema: str, as_json: bool = False, **own_options: Any) -> None:
            call = Call(app, dsn, schema)
            try:
                result = function(call, **own_options)
            finally:
                call.close()
            output.print_json(result) if as_json else show(result)
            if call.exit_code:
                raise typer.Exit(call.exit_code)

        own = list(signature(function).parameters.values())[1:]
        run.__signature__ = signature(function).replace(parameters=[*own, *common])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *common)}
        run.__doc__ = function.__doc__
        group.command(name)(run)

    return register
