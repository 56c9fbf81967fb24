"""Commands that keep the tables small: `pgqueue prune`, `pgqueue retention …`, `pgqueue repair …`."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.client.pruning import Pruned
from pgqueue.queries.partitions import faulty
from pgqueue.queries.retention import Rule

repair_cli = typer.Typer(no_args_is_help=True, help="Mend what upkeep has left.")
retention_cli = typer.Typer(no_args_is_help=True, help="How long is kept what has ended.")

RuleName = Annotated[str, typer.Argument(help="succeeded, cancelled, failed, history, ticks, operations, activity.")]
RuleQueue = Annotated[str, typer.Option("-Q", "--queue", help="Only jobs of this queue; * stands for any characters.")]
RuleTask = Annotated[str, typer.Option("--task", help="Only jobs of this task; * stands for any characters.")]


def prune(
    call: Call,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
) -> Sequence[Pruned]:
    """Prune now what is older than retention keeps it, as workers do by themselves. See docs/retention.md.

    Rows of whole partitions are Postgres's estimate, and so they are called.
    """
    if dry_run:
        output.say("this would go:")
        return call.app.pruning.preview()
    return call.app.pruning.run()


def print_pruned(pruned: Sequence[Pruned]) -> None:
    """Print what was pruned, or would be."""
    rows = [
        (one.name, one.how, f"{'about ' if one.estimated else ''}{one.rows}", _megabytes(one.bytes)) for one in pruned
    ]
    output.print_table("older than retention keeps it", ("of", "is", "rows", "MB"), rows)


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1024 / 1024:.1f}"


def _print_rules(rules: Sequence[Rule]) -> None:
    rows = [
        (r.name, r.queue, r.task, "for ever" if r.age is None else output.age(r.age.total_seconds()), r.set_by)
        for r in rules
    ]
    output.print_table("retention", ("of", "queue", "task", "kept", "set by"), rows, spare=("set by",))


@command(retention_cli, "list", _print_rules)
def list_rules(call: Call) -> Sequence[Rule]:
    """List the rules that hold. A rule for a queue or task replaces the general one; of several the longest counts."""
    return call.app.pruning.rules()


@command(retention_cli, "set", _print_rules)
def set_rule(
    call: Call,
    name: RuleName,
    age: Annotated[str, typer.Argument(help="7d, 12h, 30m, or forever.")],
    queue: RuleQueue = "*",
    task: RuleTask = "*",
    by: Annotated[str | None, typer.Option(help="Who sets it. Default: the user of this process.")] = None,
) -> Sequence[Rule]:
    """Set a rule. It wins over what the code of an app declares."""
    call.app.pruning.set(name, age, queue, task, by)
    return call.app.pruning.rules()


@command(retention_cli, "unset", _print_rules)
def unset_rule(call: Call, name: RuleName, queue: RuleQueue = "*", task: RuleTask = "*") -> Sequence[Rule]:
    """Take a rule that was set away: what the code declares holds again, or the default."""
    if not call.app.pruning.unset(name, queue, task):
        output.say("no operator has set that rule")
    return call.app.pruning.rules()


def _print_states(states: Sequence[dict[str, Any]]) -> None:
    for state in states:
        output.console.print(f"{state['history']}: good")


@command(repair_cli, "partitions", _print_states)
def repair_partitions(call: Call) -> Sequence[dict[str, Any]]:
    """Empty the default partitions, also large ones, and make missing partitions: a day at a time, beside everything.

    Exits with 1 and says on stderr what is left, for example because a long transaction is in the way: try again later.
    """
    states = call.app.pruning.repair()
    if faults := faulty(states):
        for fault in faults:
            output.say(str(fault))
        raise typer.Exit(1)
    return [state._asdict() for state in states]
