"""A command: the options that all have, the app it is for, and how what it returns is printed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from typing import Any, TypeVar

import typer

from pgqueue.app import App
from pgqueue.cli import output
from pgqueue.cli.load import app_or_default
from pgqueue.cli.options import AppRef, AsJson, Dsn, Schema
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
    """One call of a command. `reference` and `dsn` are the options `--app` and `--dsn`."""

    reference: str | None
    dsn: str | None
    schema: str

    @property
    def has_app(self) -> bool:
        """Whether `--app` or PGQUEUE_APP names an app."""
        return bool(find_app(self.reference))

    @cached_property
    def app(self) -> App:
        """The app that `--app` names, or one that only knows the database; loaded when a command first needs it."""
        return app_or_default(self.reference, self.dsn, self.schema)

    def run(self, query: Query[T]) -> T:
        """Run one query on a connection of the app's own."""
        return self.app.backend.pools.run(query)

    def close(self) -> None:
        """Close the app, if the command needed it."""
        if "app" in self.__dict__:
            self.app.close()


def command(
    group: typer.Typer, name: str, show: Callable[[Any], object], *, has_json: bool = True
) -> Callable[[Callable[..., Any]], None]:
    """Make a function a command of a group, with the options that all commands have.

    The function's first parameter is the Call. `show` prints what it returns; with `--json` that is printed as JSON.
    """
    common = _COMMON if has_json else _COMMON[:-1]

    def register(function: Callable[..., Any]) -> None:
        def run(app: str | None, dsn: str | None, schema: str, as_json: bool = False, **given: Any) -> None:
            call = Call(app, dsn, schema)
            try:
                found = function(call, **given)
            finally:
                call.close()
            output.print_json(found) if as_json else show(found)

        own = list(signature(function).parameters.values())[1:]
        run.__signature__ = signature(function).replace(parameters=[*own, *common])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *common)}
        run.__doc__ = function.__doc__
        group.command(name)(run)

    return register
