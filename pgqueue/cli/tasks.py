"""`pgqueue tasks`: an app's tasks and their arguments. Connects to nothing."""

import inspect
from dataclasses import fields
from typing import Annotated, Any

import typer

from pgqueue.cli import output
from pgqueue.cli.load import load_app_quietly
from pgqueue.cli.options import AppRef, AsJson
from pgqueue.client.settings import TaskDefaults
from pgqueue.jobs.keys import WINDOW, Unique
from pgqueue.jobs.retry import Constant, Delays, Exponential, RetryPolicy
from pgqueue.tasks.metering import Metering
from pgqueue.tasks.options import TaskOptions
from pgqueue.tasks.rules import KeyFunction, Rules
from pgqueue.tasks.spec import TaskSpec

# What an app has for all of its tasks.
# Options that an app gives its tasks; `retry_policy` is what it makes of `retry`.
OF_APP = frozenset(name.removesuffix("_policy") for name in TaskDefaults.__annotations__ if name != "codec")

SPARE = ("aliases", "version", "queue", "what it does")  # columns that a narrow terminal goes without
tasks_cli = typer.Typer(help="List and show the tasks of an app, with the arguments they take.", no_args_is_help=True)


@tasks_cli.command("list")
def list_tasks(app: AppRef = None, as_json: AsJson = False) -> None:
    """List the tasks of an app."""
    specs = sorted(load_app_quietly(app, None).tasks, key=lambda spec: spec.name)
    if as_json:
        output.print_json([_facts(spec) for spec in specs])
        return
    rows = [(s.name, str(s.coder.signature), s.queue, s.version, s.aliases, _summary(s)) for s in specs]
    output.print_table("tasks", ("task", "takes", "queue", "version", "aliases", "what it does"), rows, spare=SPARE)


@tasks_cli.command("show")
def show_task(
    name: Annotated[str, typer.Argument(help="The task's name, or an earlier one.")],
    app: AppRef = None,
    as_json: AsJson = False,
) -> None:
    """Show one task: its settings, and the JSON schema of its arguments."""
    spec = load_app_quietly(app, None).tasks[name]
    facts, origins = _facts(spec), _origins(spec)
    if as_json:
        output.print_json(facts | {"origins": origins, "schema": spec.json_schema()})
        return
    output.print_facts(f"task {spec.name}", facts, origins)
    output.print_json(spec.json_schema())


def _facts(spec: TaskSpec) -> dict[str, Any]:
    """Return every setting of a task, by the name of its option; None where it has none. Durations are seconds."""
    names = ("name", "aliases", "version", "queue", "priority", "tags", "max_attempts", "timeout", "soft_timeout",
             "isolation", "max_crashes", "dead_letter_task", "retention", "store_result", "result_ttl",
             "max_result_bytes", "max_args_bytes")  # fmt: skip
    facts = {name: getattr(spec, name) for name in names}
    facts["retry"] = _policy(spec.retry)
    facts["on"] = [pattern.text for pattern in spec.on] or None
    facts |= {name: [error.__qualname__ for error in getattr(spec, name)] for name in ("retry_on", "no_retry_on")}
    facts |= _conditions(spec.rules or Rules()) | _rules(spec.metering)
    facts |= {"upcasts_from": sorted(spec.upcasters), "encrypted": spec.codec is not None}
    return facts | {"takes": str(spec.coder.signature), "about": _summary(spec)}


def _origins(spec: TaskSpec) -> dict[str, str]:
    """Return where each setting comes from: the task, `with_defaults`, its route or queue, the app (or what that has by
    default), or what pgqueue has for a task that says nothing."""
    known = TaskOptions.__annotations__.keys() | OF_APP
    origins = {name: "app" if name in OF_APP else "default" for name in _facts(spec) if name in known}
    if isinstance(spec.retry, Delays) and "retry" in spec.given:
        origins["max_attempts"] = spec.origins.get("retry", "task")  # one more than it has delays
    origins |= {name: "task" for name in origins if name in spec.given}
    return origins | {name: where for name, where in spec.origins.items() if name in origins}


def _policy(policy: RetryPolicy) -> dict[str, Any]:
    """Return the name of a retry policy, and the settings of one of ours."""
    shown: dict[str, Any] = {"policy": type(policy).__qualname__}
    if isinstance(policy, (Exponential, Constant, Delays)):
        shown |= {each.name: getattr(policy, each.name) for each in fields(policy) if each.name != "uniform"}
    return shown


def _rules(metering: Metering | None) -> dict[str, Any]:
    """Return the rules of a task by their options: each with what it says, or what its keys are made of."""
    limits = [] if metering is None else [each.rule for each in metering.limits]
    order, fair = (None, None) if metering is None else (metering.order, metering.share)
    rates = [f"{rule.name}: {rule.rate_count} in {rule.rate_seconds:g} s" for rule in limits if rule.rate_count]
    return {
        "limit": [f"{r.name}: {r.max_running}" + (f" by {r.keyed_by}" if r.keyed_by else "") for r in limits] or None,
        "rate_limit": rates or None,
        "rate_scope": [rule.scope for rule in limits if rule.rate_count] or None,
        "breaker": [f"{rule.name}: {rule.breaker_failures}" for rule in limits if rule.breaker_failures] or None,
        "fair": None if fair is None else fair.rule.keyed_by,
        "ordered": None if order is None else order.rule.keyed_by,
    }


def _conditions(rules: Rules) -> dict[str, Any]:
    """Return the options of a task that make conditions. A function that makes keys is shown as its name."""
    key = rules.key.function if isinstance(rules.key, KeyFunction) else rules.key
    idempotent = key is not None if isinstance(key, bool | None) else getattr(key, "__qualname__", str(key))
    unique = rules.unique and {each.name.rstrip("_"): getattr(rules.unique, each.name) for each in fields(Unique)}
    return {
        "idempotent": idempotent,
        "idempotency_window": WINDOW if key is not None and rules.window is None else rules.window,
        "unique": unique,
        "expires": rules.expires,
    }


def _summary(spec: TaskSpec) -> str:
    return (inspect.getdoc(spec.function) or "").partition("\n")[0]
