"""`pgqueue pause`, `resume`, `drain` and `pauses`: of queues, tasks and limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call
from pgqueue.cli.completion import complete_queue, complete_task
from pgqueue.cli.filters import By
from pgqueue.cli.schedule_input import read_end
from pgqueue.client.pausing import Target, What
from pgqueue.jobs.patterns import is_pattern
from pgqueue.queries.pauses import Pause
from pgqueue.queries.queues import MOST_LEFT, WorkLeft

Queue = Annotated[
    str | None,
    typer.Option(
        "-Q",
        "--queue",
        help="A queue, or a pattern: 'tenant-*'. Give this, --task or --limit.",
        autocompletion=complete_queue,
    ),
]
Task = Annotated[
    str | None, typer.Option("--task", help="A task, by its name. Default: none.", autocompletion=complete_task)
]
LimitName = Annotated[str | None, typer.Option("--limit", help="A limit, by its name. Default: none.")]
Key = Annotated[str | None, typer.Option("--key", help="One key of the limit. Default: all of them.")]
Until = Annotated[
    str | None, typer.Option(help="For 90s, 30m, 2h, 7d, or until a time with its zone. Default: until it is resumed.")
]
Why = Annotated[str | None, typer.Option("--why", "--reason", help="Why, for others who see it. Default: nothing.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when its running jobs have ended.")]
Timeout = Annotated[
    float | None, typer.Option(min=0.001, help="Give up after so many seconds, with exit code 1. Default: never.")
]
OnlyRunning = Annotated[bool, typer.Option("--only-running", help="Wait for the running jobs alone: after a pause.")]


@dataclass(frozen=True, slots=True)
class Changed:
    """What a command has paused or resumed, its kind, and which of it nobody knows yet."""

    kind: str
    names: list[str]
    unknown: list[str]


def pause(
    call: Call,
    queue: Queue = None,
    task: Task = None,
    limit: LimitName = None,
    key: Key = None,
    until: Until = None,
    why: Why = None,
    by: By = None,
    wait: Wait = False,
    timeout: Timeout = None,
) -> Changed:
    """Let no worker claim jobs of a queue, a task, a limit, or a key of a limit. Running jobs go on; jobs can be
    enqueued as before.

    A pattern pauses the queues that match now, and none that appears later.
    """
    what: What = {"queue": queue, "task": task, "limit": limit, "key": key}
    kind = Target.of(what).kind
    known = _known(call, queue, task)
    act = partial(call.app.pause, **what, until=read_end("--until", until), why=why, by=by)
    paused = sorted(call.recorded("pause", what, by, act, until=until, why=why))
    changed = Changed(kind, paused, [] if kind == "limit" else sorted(set(paused) - known))
    for name in changed.unknown:
        nobody = "has no jobs and no worker serves it by name" if queue else "is known neither here nor to a worker"
        output.say(f"warning: {kind} {name} {nobody}: it is paused all the same")
    if queue and is_pattern(queue) and paused:
        output.say("queues that match and appear later are not paused")
    waits: list[What] = [{"queue": name} for name in paused] if queue else [what]
    if wait and not all(wait_until_drained(call, each, only_running=True, timeout=timeout) for each in waits):
        raise typer.Exit(1)
    return changed


def say_paused(changed: Changed) -> None:
    """Say what has been paused."""
    output.say(f"paused: {', '.join(changed.names) or 'no queue matches'}")


def resume(
    call: Call, queue: Queue = None, task: Task = None, limit: LimitName = None, key: Key = None, by: By = None
) -> Changed:
    """Let workers claim jobs of a queue, a task, a limit, or a key of a limit again."""
    what: What = {"queue": queue, "task": task, "limit": limit, "key": key}
    kind, act = Target.of(what).kind, partial(call.app.resume, **what, by=by)
    return Changed(kind, sorted(call.recorded("resume", what, by, act)), [])


def say_resumed(changed: Changed) -> None:
    """Say what has been resumed."""
    output.say(f"resumed: {', '.join(changed.names) or 'nothing of this name was paused'}")


def drain(
    call: Call, queue: Queue = None, task: Task = None, only_running: OnlyRunning = False, timeout: Timeout = None
) -> WorkLeft:
    """Wait until no job of a queue is due and none runs, or until none of a task runs. Changes nothing.

    For a deploy use `pause --wait`, which lets nothing begin and waits for what runs.
    """
    what: What = {"queue": queue, "task": task}
    looks: list[WorkLeft] = []
    if not wait_until_drained(call, what, only_running=only_running, timeout=timeout, looks=looks):
        raise typer.Exit(1)
    return looks[-1]


def say_drained(left: WorkLeft) -> None:
    """Say what is left."""
    output.say(f"drained: {left.due} due, {left.running} running")


def wait_until_drained(
    call: Call, what: What, *, only_running: bool, timeout: float | None, looks: list[WorkLeft] | None = None
) -> bool:
    """Wait for a queue or task to be empty, and say on stderr how far it is; False if time ran out."""
    seen: list[WorkLeft] = [] if looks is None else looks
    started = datetime.now()
    name = what.get("queue") or what.get("task")

    def tell(left: WorkLeft) -> None:
        if not seen or seen[-1] != left:
            due = "" if only_running or what.get("task") else f"{_count(left.due)} due, "
            output.say(f"{name}: {due}{left.running} running")
        seen.append(left)

    drained = call.app.drain(**what, only_running=only_running, timeout=timeout, on_look=tell)
    if not drained:
        output.say(f"{name} is not drained after {output.age((datetime.now() - started).total_seconds())}")
    return drained


def list_pauses(call: Call) -> Sequence[Pause]:
    """List what is paused: since when, until when, by whom and why."""
    return call.app.pauses()


def print_pauses(pauses: Sequence[Pause]) -> None:
    """Print pauses, one a line."""
    rows = [(p.kind, p.full_name, p.since, p.until, p.by, p.why) for p in pauses]
    output.print_table("pauses", ("kind", "name", "since", "until", "by", "why"), rows, spare=("by", "since"))


def _known(call: Call, queue: str | None, task: str | None) -> set[str]:
    """Return the queues or tasks that somebody knows: for a warning about a misspelt name."""
    if queue:
        return {load.queue for load in call.app.queues.list()}
    if task is None:
        return set()
    return {*call.app.tasks.names(), *call.run(call.app.queries.names.tasks(task))}


def _count(jobs: int) -> str:
    return f"{jobs}+" if jobs >= MOST_LEFT else str(jobs)
