"""`pgqueue limits …`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.filters import By
from pgqueue.errors import InvalidOption
from pgqueue.queries.limits import LimitStatus

limits_cli = typer.Typer(help="Limits, rates, orders and fair turns: see, change.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A task, a limit that tasks share, or queue:NAME.")]
Key = Annotated[str | None, typer.Option(help="One key of it. Default: all.")]
NONE = "none"


def print_limits(limits: Sequence[LimitStatus]) -> None:
    """Print rules and their keys as a table."""
    keys, runs = Counter[str](), Counter[str]()
    for one in limits:
        if one.key is not None and one.running:
            keys[one.rule] += 1
            runs[one.rule] += one.running
    rows = [
        (
            one.rule,
            one.key or "",
            one.kind or "no rule",
            _most(one),
            _running(one, keys[one.rule], runs[one.rule]),
            f"{one.waiting}{'+' if one.waiting_capped else ''}",
            rate_of(one),
            "; ".join(notes_of(one)),
        )
        for one in limits
    ]
    columns = ("limit", "key", "kind", "max", "running", "waiting", "rate", "notes")
    output.print_table("limits", columns, rows, spare=("kind", "rate"))


def _most(one: LimitStatus) -> str:
    """Return how many may run; of a rule with keys, how many of each key."""
    if one.max_running is None:
        return ""
    return f"{one.max_running} a key" if _has_keys(one) else str(one.max_running)


def _running(one: LimitStatus, keys: int, runs: int) -> str:
    """Return how many run; of a rule with keys, over how many keys: those that are listed, with a + if they are not
    all, by what runs of them."""
    if one.running is None or not _has_keys(one) or not (one.running and keys):
        return "" if one.running is None else str(one.running)
    if runs < one.running:
        return f"{one.running} over {keys}+ keys"
    return f"{one.running} over {output.count(keys, 'key')}"


def _has_keys(one: LimitStatus) -> bool:
    return one.key is None and one.keyed_by is not None


def rate_of(one: LimitStatus) -> str:
    """Return how many may start in a time; nothing without a rate."""
    if one.rate_count is None:
        return ""
    return f"{one.rate_count} in {one.rate_seconds:g}s{' each worker' if one.scope == 'worker' else ''}"


def holds_of(one: LimitStatus) -> Iterator[str]:
    """Yield why jobs may wait for a limit."""
    if one.paused_at is not None:
        yield f"paused by {one.paused_by or 'somebody'}"
    if one.closed_until is not None:
        yield f"closed until {output.cell(one.closed_until)}"
    most = None if _has_keys(one) else one.max_running
    if most is not None and one.running is not None and one.running >= most:
        yield f"full, {one.running} of {most} run"
    if one.rate_count is not None:
        yield f"rate-limited, {rate_of(one)}"


def notes_of(one: LimitStatus) -> Iterator[str]:
    """Yield what else is to be known of a rule: what keeps it closed, who has changed it, whether code declares it."""
    if one.paused_at is not None:
        until = f" until {output.cell(one.paused_until)}" if one.paused_until else ""
        yield f"paused by {one.paused_by or 'somebody'}{until}"
    if one.closed_until is not None:
        yield f"closed until {output.cell(one.closed_until)}"
    if one.on_full not in (None, "wait"):
        yield f"on full {one.on_full}"
    if one.kind == "fair" and one.key is None:
        yield "a key has weight 1 unless it has its own"
    elif one.kind == "fair" or one.weight is not None:
        yield f"weight {1 if one.weight is None else one.weight:g}"
    if one.updated_by is not None:
        yield f"set by {one.updated_by}"
    if one.kind is None:
        yield "nothing limits these jobs"
    elif one.in_code and not one.declared_by and one.key is None:
        yield "no longer declared in code"


@command(limits_cli, "list", print_limits)
def list_limits(
    call: Call, limit: Annotated[str | None, typer.Argument(help="Only this one, with its keys.")] = None
) -> Sequence[LimitStatus]:
    """List limits, and the keys of each that wait, run or are exceptions. Counts of what waits stop at 1000."""
    return call.app.limits.list(limit)


def _say(limit: LimitStatus) -> None:
    print_limits([limit])


@command(limits_cli, "set", _say)
def set_limit(
    call: Call,
    limit: Name,
    key: Key = None,
    max_running: Annotated[
        str | None, typer.Option(help="How many may run at a time; 0: none; none: any. Default: as it is.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="How many may start: '10/s', '10/m', '10/h'; or none. Default: as it is.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="How often a key has its turn, where others have 1. Default: as it is.")
    ] = None,
    on_full: Annotated[
        str | None, typer.Option(help="wait, skip, cancel_running or replace_waiting. Default: as it is.")
    ] = None,
    by: By = None,
) -> LimitStatus:
    """Change a limit, or make one key of it an exception. It counts from the next claim on."""
    changes: dict[str, Any] = {"weight": weight, "on_full": on_full}
    changes = {name: value for name, value in changes.items() if value is not None}
    if max_running is not None:
        changes["max_running"] = _whole(max_running)
    if rate is not None:
        changes["rate"] = None if rate == NONE else rate
    return call.app.limits.set(limit, key=key, by=by, **changes)


@command(limits_cli, "reset", _say)
def reset_limit(call: Call, limit: Name, key: Key = None, by: By = None) -> LimitStatus:
    """Let a limit be again what code declares, or take away the exception of a key."""
    return call.app.limits.reset(limit, key=key, by=by)


def _whole(text: str) -> int | None:
    if text == NONE:
        return None
    if not text.isascii() or not text.isdigit():
        raise InvalidOption(f"--max-running {text!r:.50} cannot be used: give a number, or none")
    return int(text)
