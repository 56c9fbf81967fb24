"""`pgqueue workers …`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import typer
from rich.console import RenderableType

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.completion import complete_worker
from pgqueue.cli.filters import By
from pgqueue.client.workers import Pong
from pgqueue.doctor.limits import Limits
from pgqueue.jobs.patterns import Patterns, is_pattern
from pgqueue.jobs.served_queues import ServedQueue
from pgqueue.queries.workers import WorkerStatus

workers_cli = typer.Typer(help="Workers and schedulers: see, make quiet, resume, stop.", no_args_is_help=True)

Which = Annotated[
    str | None, typer.Argument(help="An id or its beginning, a host, or host:pid.", autocompletion=complete_worker)
]
All = Annotated[bool, typer.Option("--all", help="Every one that lives now.")]
COLUMNS = ("id", "kind", "process", "release", "queues", "running", "status", "memory", "beat", "worked")
PAIRS = {"id": "kind", "process": "release"}  # columns that share one where a terminal is narrow
MAIN = ("claim", "schedules")  # the duty for which a process is there
STUCK_SECONDS = Limits().duty_seconds


def worker_rows(workers: Sequence[WorkerStatus]) -> list[Sequence[object]]:
    """Return the cells of workers, for a table with COLUMNS."""
    return [
        (str(w.id)[:8], w.kind, f"{w.host}:{w.pid}", w.release or "", _given(w), f"{w.running}/{w.slots}",
         _status(w) + _stuck(w), memory(w.rss_bytes), output.age(w.heartbeat_age_seconds), _worked(w))
        for w in workers
    ]  # fmt: skip


def workers_table(title: str, workers: Sequence[WorkerStatus]) -> RenderableType:
    """Return workers and schedulers as a table; with two lines for each where the terminal is too narrow for one."""
    return output.two_lines(title, COLUMNS, worker_rows(workers), PAIRS)


def print_workers(workers: Sequence[WorkerStatus]) -> None:
    """Print workers and schedulers as a table."""
    output.console.print(workers_table("workers", workers))


def memory(size: int | None) -> str:
    """Return a number of bytes in MiB."""
    return "" if size is None else f"{size / 2**20:.0f} MiB"


def _status(worker: WorkerStatus) -> str:
    """Return how a worker is; and what was asked of it, until it has done that."""
    if worker.death:
        return worker.death
    done = {"quiet": ("quiet", "stopping"), "resume": ("alive", "stopping"), "stop": ("stopping",)}
    asked = worker.requested
    if asked and worker.status not in (*done.get(asked, ()), "lost", "silent"):
        return f"{worker.status}, asked to {asked} by {worker.requested_by}"
    return worker.status


def _given(worker: WorkerStatus) -> list[str]:
    """Return what `-Q` gave a worker: its queues without those that a pattern among them stands for, with shares and
    limits."""
    patterns = Patterns(filter(is_pattern, worker.queues))
    given = [queue for queue in worker.queues if is_pattern(queue) or patterns.match(queue) is None]
    shares, limits = worker.shares or {}, worker.limits or {}
    return [str(ServedQueue(queue, shares.get(queue), limits.get(queue))) for queue in given]


def _worked(worker: WorkerStatus) -> str:
    """Return for how long the main duty of a process had not worked at its last beat."""
    return next((output.age(seconds) for name in MAIN if (seconds := worker.duties.get(name)) is not None), "")


def _stuck(worker: WorkerStatus) -> str:
    """Return which duties have not worked for longer than any of them rests."""
    ages = {name: seconds for name, seconds in worker.duties.items() if seconds and seconds > STUCK_SECONDS}
    return "".join(f", {name} stuck for {output.age(ages[name])}" for name in sorted(ages))


@command(workers_cli, "list", print_workers)
def list_workers(call: Call) -> Sequence[WorkerStatus]:
    """List workers and schedulers, also those that were lost within the last hour.

    `beat`: how long ago it last beat. `worked`: how long before that it last claimed, or looked for schedules that are
    due. `pgqueue workers show` has the same of each of its duties.
    """
    return call.app.workers.list()


def _print_process(found: Sequence[WorkerStatus]) -> None:
    for one in found:
        facts = {name: value for name, value in output.fields_of(one).items() if value is not None}
        facts["rss_bytes"] = memory(one.rss_bytes)
        duties: dict[str, float | None] = facts.pop("duties")
        output.print_facts(f"{one.kind} {one.host}:{one.pid}", facts)
        ages = sorted(duties.items(), key=lambda duty: (duty[1] is None, -(duty[1] or 0.0), duty[0]))
        rows = [(name, "not yet" if age is None else output.age(age)) for name, age in ages]
        output.print_table("duties", ("duty", "had last worked, at the last beat"), rows)


@command(workers_cli, "show", _print_process)
def show_worker(
    call: Call,
    which: Annotated[
        str, typer.Argument(help="An id or its beginning, a host, or host:pid.", autocompletion=complete_worker)
    ],
) -> Sequence[WorkerStatus]:
    """Show a worker or scheduler with all of its duties; of a host, each process on it."""
    return call.app.workers.find(which)


def _say_asked(what: str) -> Callable[[Sequence[WorkerStatus]], None]:
    def say(workers: Sequence[WorkerStatus]) -> None:
        for worker in workers:
            output.say(f"asked {worker.kind} {str(worker.id)[:8]} on {worker.host}:{worker.pid} to {what}")
        if not workers:
            output.say("there is none to ask")

    return say


@command(workers_cli, "quiet", _say_asked("go quiet"))
def quiet(call: Call, which: Which = None, everyone: All = False, by: By = None) -> Sequence[WorkerStatus]:
    """Let workers claim no more jobs and go on with the running ones, as SIGTSTP does."""
    return _request(call, call.app.workers.quiet, which, everyone, by)


@command(workers_cli, "resume", _say_asked("resume"))
def resume(call: Call, which: Which = None, everyone: All = False, by: By = None) -> Sequence[WorkerStatus]:
    """Let quiet workers claim jobs again."""
    return _request(call, call.app.workers.resume, which, everyone, by)


@command(workers_cli, "stop", _say_asked("stop"))
def stop(call: Call, which: Which = None, everyone: All = False, by: By = None) -> Sequence[WorkerStatus]:
    """Stop workers or schedulers, as SIGTERM does: running jobs may end within the worker's shutdown timeout.

    A supervisor (`--processes`) does not start it again. Kubernetes does: it restarts also what ends well.
    """
    return _request(call, call.app.workers.stop, which, everyone, by)


def _print_pongs(pongs: Sequence[Pong]) -> None:
    rows = [
        (str(p.worker.id)[:8], p.worker.kind, f"{p.worker.host}:{p.worker.pid}",
         "no answer" if p.seconds is None else output.age(p.seconds))
        for p in pongs
    ]  # fmt: skip
    output.print_table("ping", ("id", "kind", "process", "answered after"), rows)


@command(workers_cli, "ping", _print_pongs)
def ping(
    call: Call,
    which: Which = None,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 1.0,
) -> Sequence[Pong]:
    """Ask workers and schedulers for a sign of life. Exits 1 if one is silent, or none lives.

    The answer is a heartbeat after the question: the process lives, hears notifications, and reaches the database.
    """
    pongs = call.app.workers.ping(which, timeout=timeout)
    call.exit_code = 0 if pongs and all(pong.seconds is not None for pong in pongs) else 1
    return pongs


def _request(
    call: Call, verb: Callable[..., list[WorkerStatus]], which: str | None, everyone: bool, by: str | None
) -> Sequence[WorkerStatus]:
    """Ask processes for something, as an operation."""
    what = {"process": which or ("all" if everyone else None)}
    return call.recorded(verb.__name__, what, by, partial(verb, which, everyone=everyone, by=by))
