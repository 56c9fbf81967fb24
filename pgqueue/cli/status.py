"""`pgqueue status`: queues, workers and schedules, read in one transaction."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from pgqueue import db
from pgqueue.app import App
from pgqueue.cli.call import Call
from pgqueue.queries.read import MOST_COUNTED, Ended, QueueCounts, ScheduleStatus, UnknownTaskJobs, WorkerStatus

Exact = Annotated[bool, typer.Option("--exact", help="Count to the end: slow on a big backlog.")]


@dataclass(frozen=True, slots=True)
class Status:
    """The state of one schema. `ended`: within the last hour."""

    queues: list[QueueCounts]
    workers: list[WorkerStatus]
    unknown: list[UnknownTaskJobs]
    schedules: list[ScheduleStatus]
    ended: list[Ended]

    def as_dict(self) -> dict[str, Any]:
        """Return the status as programs read it."""
        parts = {"queues": self.queues, "workers": self.workers, "unknown_tasks": self.unknown}
        ended = {ended.state: ended.jobs for ended in self.ended}
        return {**parts, "schedules": self.schedules, "finished_last_hour": ended}


def read_status(app: App, *, exact: bool) -> Status:
    """Read the status. Each count stops at one more than MOST_COUNTED, unless `exact`."""
    queries, most = app.queries, None if exact else MOST_COUNTED
    with app.backend.pools.connection() as conn, conn.transaction():
        if most is not None:
            db.run(conn, queries.jobs.in_index_order())
        return Status(
            db.run(conn, queries.jobs.count_jobs(most)),
            db.run(conn, queries.workers.list_workers()),
            db.run(conn, queries.jobs.list_unknown_tasks(most)),
            db.run(conn, queries.schedules.list_schedules()),
            db.run(conn, queries.jobs.count_finished(most)),
        )


def status(call: Call, exact: Exact = False) -> Status:
    """Show queues, workers, schedules, and the jobs that wait for a worker that knows their task.

    Counts stop at 10000, so that the command costs the same on any backlog: 10000+ means more.
    """
    return read_status(call.app, exact=exact)
