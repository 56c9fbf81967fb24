"""`pgqueue queues …`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.completion import complete_queue
from pgqueue.cli.filters import By
from pgqueue.cli.pauses import OnlyRunning, Timeout, Until, Wait, Why, say_drained, wait_until_drained
from pgqueue.cli.schedule_input import read_end
from pgqueue.jobs.patterns import is_pattern
from pgqueue.queries.queues import QueueLoad, WorkLeft

queues_cli = typer.Typer(help="Queues: see, pause, resume, drain.", no_args_is_help=True)

QueueOrPattern = Annotated[
    str, typer.Argument(help="A queue, or a pattern: 'tenant-*'.", autocompletion=complete_queue)
]


def print_queues(queues: Sequence[QueueLoad]) -> None:
    """Print queues as a table."""
    rows = [
        (q.queue, count(q.due, q.due_capped), count(q.turn, q.turn_capped), q.running,
         count(q.scheduled, q.scheduled_capped), output.age(q.oldest_due_seconds),
         q.workers or ("NONE" if q.due + q.turn else 0), q.slots, pause_of(q))
        for q in queues
    ]  # fmt: skip
    columns = ("queue", "due", "turn", "running", "scheduled", "waits", "workers", "slots", "paused")
    output.print_table("queues", columns, rows, spare=("slots", "paused", "turn", "scheduled"))


def count(jobs: int, capped: bool) -> str:
    """Return a count as people see it, with a + if it was not counted to its end."""
    return f"{jobs}+" if capped else str(jobs)


def pause_of(load: QueueLoad) -> str:
    """Return who has paused a queue, until when and why; nothing if it is not paused."""
    if load.paused_at is None:
        return ""
    until = f" until {output.cell(load.paused_until)}" if load.paused_until else ""
    return f"by {load.paused_by or 'somebody'}{until}" + (f": {load.paused_reason}" if load.paused_reason else "")


@dataclass(frozen=True, slots=True)
class Changed:
    """Which queues a command has paused or resumed, and those of them that nobody knows yet."""

    queues: list[str]
    unknown: list[str]


@command(queues_cli, "list", print_queues)
def list_queues(
    call: Call,
    pattern: Annotated[str, typer.Argument(help="Only what matches.", autocompletion=complete_queue)] = "*",
) -> Sequence[QueueLoad]:
    """List queues: what is due or waits for its turn, who serves it, and whether it is paused. Counts stop at 10000."""
    return call.app.queues.list(pattern)


def _say_paused(changed: Changed) -> None:
    output.say(f"paused: {', '.join(changed.queues) or 'no queue matches'}")


@command(queues_cli, "pause", _say_paused)
def pause(
    call: Call,
    queue: QueueOrPattern,
    until: Until = None,
    why: Why = None,
    by: By = None,
    wait: Wait = False,
    timeout: Timeout = None,
) -> Changed:
    """Let no worker claim jobs of a queue. Running jobs go on; jobs can be enqueued as before.

    A pattern pauses the queues that match now, and none that appears later.
    """
    known = {load.queue for load in call.app.queues.list()}
    act = partial(call.app.queues.pause, queue, until=read_end("--until", until), why=why, by=by)
    paused = call.recorded("pause", {"queue": queue}, by, act, until=until, why=why)
    changed = Changed(sorted(paused), sorted(set(paused) - known))
    for name in changed.unknown:
        output.say(f"warning: queue {name} has no jobs and no worker serves it by name: it is paused all the same")
    if is_pattern(queue) and paused:
        output.say("queues that match and appear later are not paused")
    if wait and not all(
        wait_until_drained(call, {"queue": name}, only_running=True, timeout=timeout) for name in paused
    ):
        raise typer.Exit(1)
    return changed


def _say_resumed(changed: Changed) -> None:
    output.say(f"resumed: {', '.join(changed.queues) or 'no such queue was paused'}")


@command(queues_cli, "resume", _say_resumed)
def resume(call: Call, queue: QueueOrPattern, by: By = None) -> Changed:
    """Let workers claim jobs of a queue again."""
    act = partial(call.app.queues.resume, queue, by=by)
    return Changed(sorted(call.recorded("resume", {"queue": queue}, by, act)), [])


@command(queues_cli, "drain", say_drained)
def drain(
    call: Call,
    queue: Annotated[str, typer.Argument(help="The queue.", autocompletion=complete_queue)],
    only_running: OnlyRunning = False,
    timeout: Timeout = None,
) -> WorkLeft:
    """Wait until no job of a queue is due and none runs. Changes nothing: workers do the work.

    For a deploy use `queues pause QUEUE --wait`, which lets nothing begin and waits for what runs.
    """
    _warn(call, queue, only_running)
    if not wait_until_drained(call, {"queue": queue}, only_running=only_running, timeout=timeout):
        raise typer.Exit(1)
    return call.app.queues.left(queue)


def _warn(call: Call, queue: str, only_running: bool) -> None:
    """Say why a wait might never end."""
    found = call.app.queues.list(queue)
    if not found:
        output.say(f"warning: queue {queue} has no jobs and no worker serves it by name")
    for load in found if not only_running else ():
        if load.paused_at is not None:
            output.say(f"warning: {queue} is paused {pause_of(load)}: due jobs stay where they are")
        elif load.due + load.turn and not load.workers:
            output.say(f"warning: no worker takes jobs of {queue}")
