"""`pgqueue status`: queues, workers and schedules, read in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from pgqueue import db
from pgqueue.app import App
from pgqueue.cli import output
from pgqueue.cli.call import Call
from pgqueue.cli.schedules import print_schedules
from pgqueue.cli.workers import print_workers
from pgqueue.queries.activity import QueueRate
from pgqueue.queries.jobs.count import MOST_COUNTED, FinishedCount, ParkedJobs, QueueCounts
from pgqueue.queries.partitions import PartitionState, faulty
from pgqueue.queries.schedules.read import ScheduleStatus
from pgqueue.queries.workers import WorkerStatus

PHASES = ("pending", "scheduled", "retrying", "running", "blocked", "dead")

Exact = Annotated[bool, typer.Option("--exact", help="Count to the end: slow on a big backlog.")]


@dataclass(frozen=True, slots=True)
class Status:
    """All that `pgqueue status` shows of one schema.

    `unknown`: jobs whose task no worker knew. `ended`: how many jobs ended within the last hour, by state.
    """

    queues: list[QueueCounts]
    rates: list[QueueRate]
    workers: list[WorkerStatus]
    unknown: list[ParkedJobs]
    schedules: list[ScheduleStatus]
    ended: list[FinishedCount]
    partition_faults: list[PartitionState]

    def as_dict(self) -> dict[str, Any]:
        """Return the status as `--json` prints it."""
        parts = {"queues": self.queues, "rates": self.rates, "workers": self.workers, "unknown_tasks": self.unknown}
        ended = {ended.state: ended.jobs for ended in self.ended}
        faults = [fault._asdict() for fault in self.partition_faults]
        return {**parts, "schedules": self.schedules, "finished_last_hour": ended, "partition_faults": faults}


def status(call: Call, exact: Exact = False) -> Status:
    """Show queues, workers, schedules, and the jobs that wait for a worker that knows their task.

    Counts stop at 10000, so that the command costs the same on any backlog: 10000+ means more.
    """
    return _read(call.app, None if exact else MOST_COUNTED)


def _read(app: App, most: int | None) -> Status:
    """Read the status. Each count stops at one more than `most`; None counts to the end."""
    queries = app.queries
    with app.backend.pools.connection() as conn, conn.transaction():
        if most is not None:
            db.run(conn, queries.jobs.prefer_indexes())
        return Status(
            db.run(conn, queries.jobs.count(most)),
            db.run(conn, queries.activity.rates(MOST_COUNTED if most is None else most)),
            db.run(conn, queries.workers.list()),
            db.run(conn, queries.jobs.count_parked(most)),
            db.run(conn, queries.schedules.list()),
            db.run(conn, queries.jobs.count_finished(most)),
            faulty(db.run(conn, queries.partitions.states())),
        )


def print_status(status: Status) -> None:
    """Print the state of one schema as tables."""
    _print_queues(status.queues, {rate.queue: rate for rate in status.rates})
    print_workers(status.workers)
    print_schedules(status.schedules)
    _print_unknown_tasks(status.unknown)
    ended = ", ".join(f"{_count(e.jobs, e.at_least)} {e.state}" for e in sorted(status.ended)) or "none"
    output.console.print(f"ended within the last hour: {ended}")
    for fault in status.partition_faults:
        output.console.print(f"{fault}: docs/operations.md, Partitions, says what to do")


def _print_queues(queues: Sequence[QueueCounts], rates: Mapping[str, QueueRate]) -> None:
    """Print queues. A queue that has due jobs and no worker shows NONE; one that grows is never drained."""
    rows = []
    for q in queues:
        workers = "paused" if q.paused else q.workers or ("NONE" if q.pending + q.retrying else 0)
        counts = [_count(getattr(q, phase), phase in q.at_least) for phase in PHASES]
        rows.append((q.queue, *counts, output.age(q.oldest_due_seconds), *_rate(q, rates.get(q.queue)), workers))
    output.print_table("queues", ("queue", *PHASES, "waits", "ended/s", "drained in", "workers"), rows)


def _rate(queue: QueueCounts, rate: QueueRate | None) -> tuple[str, str]:
    """Return how many attempts end a second, and when no job is due any more if all goes on so."""
    due = queue.pending + queue.retrying
    if not due:
        return f"{rate.ended_per_second:.3g}" if rate else "0", ""
    if rate is None:
        return "0", "never"
    seconds = rate.drained_in(due)
    at_least = "pending" in queue.at_least and seconds is not None
    drained = "never" if seconds is None else f"{output.age(seconds)}{'+' if at_least else ''}"
    return f"{rate.ended_per_second:.3g}", drained


def _print_unknown_tasks(unknown: Sequence[ParkedJobs]) -> None:
    """Print the jobs that wait for a worker that knows their task, version or parameters, if there are any."""
    if unknown:
        rows = [
            (u.task, u.version, u.queue, _count(u.jobs, u.at_least), "yes" if u.known_to_a_worker else "NO")
            for u in unknown
        ]
        columns = ("task", "version+parameters", "queue", "jobs", "a worker knows it")
        output.print_table("jobs that wait for a worker that knows their task, version or parameters", columns, rows)


def _count(jobs: int, at_least: bool) -> str:
    """Return a count as people see it: 10000+ for one that was not counted to its end."""
    return f"{min(jobs, MOST_COUNTED)}+" if at_least else str(jobs)
