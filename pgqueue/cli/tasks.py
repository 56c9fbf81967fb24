"""`pgqueue tasks`: an app's tasks and their arguments. Connects to nothing."""

import inspect
from typing import Annotated, Any

import typer

from pgqueue.cli import output
from pgqueue.cli.load import load_app
from pgqueue.cli.options import AppRef, AsJson
from pgqueue.tasks.spec import TaskSpec

tasks_cli = typer.Typer(help="List and show the tasks of an app, with the arguments they take.", no_args_is_help=True)


@tasks_cli.command("list")
def list_tasks(app: AppRef = None, as_json: AsJson = False) -> None:
    """List the tasks of an app."""
    specs = sorted(load_app(app, None).tasks, key=lambda spec: spec.name)
    if as_json:
        output.print_json([_facts(spec) for spec in specs])
        return
    rows = [(s.name, str(s.coder.signature), s.queue, s.version, s.aliases, _summary(s)) for s in specs]
    output.print_table("tasks", ("task", "takes", "queue", "version", "aliases", "what it does"), rows)


@tasks_cli.command("show")
def show_task(
    name: Annotated[str, typer.Argument(help="The task's name, or an earlier one.")],
    app: AppRef = None,
    as_json: AsJson = False,
) -> None:
    """Show one task: its settings, and the JSON schema of its arguments."""
    spec = load_app(app, None).tasks[name]
    if as_json:
        output.print_json(_facts(spec) | {"schema": spec.json_schema()})
        return
    output.print_facts(f"task {spec.name}", _facts(spec))
    output.print_json(spec.json_schema())


def _facts(spec: TaskSpec) -> dict[str, Any]:
    """Return the settings that a task is registered with."""
    names = ("name", "aliases", "version", "queue", "priority", "max_attempts", "timeout", "isolation", "tags")
    facts = {name: getattr(spec, name) for name in names}
    facts["upcasts_from"] = sorted(spec.upcasters)
    return facts | {"max_args_bytes": spec.max_args_bytes, "takes": str(spec.coder.signature), "about": _summary(spec)}


def _summary(spec: TaskSpec) -> str:
    return (inspect.getdoc(spec.function) or "").partition("\n")[0]
