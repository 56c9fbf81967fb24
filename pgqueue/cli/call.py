"""What every command shares: the options that name the app or its database, and `--json`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import Parameter, signature
from typing import Any, Literal, TypeAlias, TypeVar

import psycopg
import typer

from pgqueue.app import App
from pgqueue.cli import output
from pgqueue.cli.load import app_or_default
from pgqueue.cli.options import AppRef, AsJson, Dsn, Schema, Schemas
from pgqueue.client.chosen_schemas import ChosenSchemas
from pgqueue.client.recording import RecordedStep, recorded
from pgqueue.config import find_app
from pgqueue.db.failures import brief
from pgqueue.errors import PgqueueError, UnknownShard
from pgqueue.jobs.patterns import is_pattern
from pgqueue.queries import Query

T = TypeVar("T")
DEFAULT_SCHEMA = "pgqueue"
Many: TypeAlias = Literal["no", "each", "all"]


@dataclass
class Call:
    """One call of a command: its options `--app`, `--dsn` and `--schema`, and the app that they name.

    `exit_code`: the status with which the command ends after it has printed what it returns. `several`: the names and
    patterns of schemas, for a command that goes through them by itself.
    """

    reference: str | None
    dsn: str | None
    schema: str | None
    exit_code: int = 0
    several: Sequence[str] = ()

    @cached_property
    def app(self) -> App:
        """The app that `--app` or PGQUEUE_APP names, else one that knows only the database. Loaded on first use."""
        app = app_or_default(self.reference, self.dsn, self.schema or DEFAULT_SCHEMA)
        if self.schema is not None and self.schema != app.schema:
            app = app.on(self.schema)
        app.binding = None  # there is no request here whose transaction a verb could join
        return app

    def on(self, schema: str) -> "Call":
        """Return the same call for another schema of the same app."""
        other = Call(self.reference, self.dsn, schema)
        vars(other)["app"] = self.app.on(schema)
        return other

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
    group: typer.Typer, name: str, show: Callable[[Any], object], *, has_json: bool = True, many: Many = "no"
) -> Callable[[Callable[..., Any]], None]:
    """Make a function a command of `group`.

    The function gets a Call, then its own options. `show` prints what it returns; with `--json` that is printed as
    JSON. A command for `many` schemas calls its function for each, or once with all. Typer reads a command's options
    from its signature, so the shared ones are appended to the function's own.
    """
    common = _common(has_json, Schema if many == "no" else Schemas)

    def register(function: Callable[..., Any]) -> None:
        def run(app: str | None, dsn: str | None, schema: Any, as_json: bool = False, **own_options: Any) -> None:
            given = [schema] if isinstance(schema, str) else list(schema or ())
            several = len(given) > 1 or (many != "no" and any(map(is_pattern, given)))
            if several and many == "each":
                do, section = partial(function, **own_options), partial(_show_section, show if has_json else None)
                raise typer.Exit(in_each(Call(app, dsn, None), given, do, None if as_json else section))
            call = Call(app, dsn, None, several=given) if several else Call(app, dsn, given[0] if given else None)
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


def _common(has_json: bool, schema: object) -> list[Parameter]:
    """Return the parameters that every command has."""
    shared: list[tuple[str, object, object]] = [("app", AppRef, None), ("dsn", Dsn, None), ("schema", schema, None)]
    if has_json:
        shared.append(("as_json", AsJson, False))
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in shared
    ]


def in_each(
    call: Call, given: Sequence[str], function: Callable[[Call], Any], show: Callable[[str, Any], object] | None
) -> int:
    """Call a function for each of several schemas and show what it returns, or print JSON of all; return the worst exit
    status. A schema in which it fails holds up no other: an error says why."""
    results: dict[str, Any] = {}
    worst = 0
    try:
        for schema in schemas_of(call.app, given):
            one = call.on(schema)
            try:
                results[schema] = function(one)
                if show is not None:
                    show(schema, results[schema])
            except (PgqueueError, psycopg.Error) as error:
                one.exit_code = error.exit_code if isinstance(error, PgqueueError) else 1
                said = str(error) if isinstance(error, PgqueueError) else brief(error)
                results[schema] = {"error": said}
                output.complain(f"schema {schema}: {said}")
            except typer.Exit as ended:
                one.exit_code = ended.exit_code
            worst = max(worst, one.exit_code)
    finally:
        call.close()
    if show is None:
        output.print_json(results)
    return worst


def _show_section(show: Callable[[Any], object] | None, schema: str, result: object) -> None:
    if show is None:  # the command has said all
        return
    output.console.print(f"schema {schema}", style="bold")
    show(result)


def schemas_of(app: App, given: Sequence[str]) -> list[str]:
    """Return the schemas that names and patterns choose. Raises UnknownShard if there is none."""
    chosen = ChosenSchemas(given)
    there = [*app.shards, *app.backend.pools.run(app.queries.schema.installed())] if chosen.patterns else []
    if not (names := chosen.pick(there)):
        raise UnknownShard(f"no schema with pgqueue's tables matches {', '.join(given)}: name those to be made in full")
    return names
