"""What the commands of a group have in common: which app they are for, and how they print what they return."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from typing import Annotated, Any

import typer

from pgqueue.app import App
from pgqueue.cli import output
from pgqueue.cli.load import app_or_default

AppRef = Annotated[str | None, typer.Option("-A", "--app", help="The app, as module:attr. Default: PGQUEUE_APP.")]
Dsn = Annotated[str | None, typer.Option(help="The database. Default: the app's, PGQUEUE_DSN or DATABASE_URL.")]
Schema = Annotated[str, typer.Option(help="pgqueue's schema, where no app names it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_COMMON = [
    Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, annotation, default in (
        ("app", AppRef, None), ("dsn", Dsn, None), ("schema", Schema, "pgqueue"), ("as_json", AsJson, False)
    )
]  # fmt: skip


@dataclass
class Call:
    """One call of a command."""

    app: str | None
    dsn: str | None
    schema: str

    @cached_property
    def home(self) -> App:
        """The app that is named, or one that only knows the database; loaded when it is first needed."""
        return app_or_default(self.app, self.dsn, self.schema)

    def close(self) -> None:
        """Close the app, if it was needed."""
        if "home" in self.__dict__:
            self.home.close()


def command(group: typer.Typer, name: str, show: Callable[[Any], object]) -> Callable[[Callable[..., Any]], None]:
    """Make a function a command of a group, with the options that all have. It is given the Call first; what it returns
    is printed as JSON, or shown."""

    def register(function: Callable[..., Any]) -> None:
        def run(app: str | None, dsn: str | None, schema: str, as_json: bool, **given: Any) -> None:
            call = Call(app, dsn, schema)
            try:
                found = function(call, **given)
            finally:
                call.close()
            output.print_json(found) if as_json else show(found)

        own = list(signature(function).parameters.values())[1:]
        run.__signature__ = signature(function).replace(parameters=[*own, *_COMMON])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *_COMMON)}
        run.__doc__ = function.__doc__
        group.command(name)(run)

    return register
