"""What `pgqueue status` shows, read in one transaction."""

from dataclasses import dataclass
from typing import Any

from pgqueue import db
from pgqueue.app import App
from pgqueue.queries.read import MOST_COUNTED, Ended, QueueCounts, ScheduleStatus, UnknownTaskJobs, WorkerStatus


@dataclass(frozen=True, slots=True)
class State:
    """The state of the whole. `ended`: within the last hour."""

    queues: list[QueueCounts]
    workers: list[WorkerStatus]
    unknown: list[UnknownTaskJobs]
    schedules: list[ScheduleStatus]
    ended: list[Ended]

    def as_dict(self) -> dict[str, Any]:
        """Return it as programs get it."""
        parts = {"queues": self.queues, "workers": self.workers, "unknown_tasks": self.unknown}
        ended = {ended.state: ended.jobs for ended in self.ended}
        return {**parts, "schedules": self.schedules, "finished_last_hour": ended}


def read_state(home: App, *, exact: bool) -> State:
    """Read it. Counts stop at MOST_COUNTED and one, unless they are to be `exact`."""
    queries, most = home.queries, None if exact else MOST_COUNTED
    with home.pools.connection(home.database) as conn, conn.transaction():
        if most is not None:
            db.run(conn, queries.jobs.in_index_order())
        return State(
            db.run(conn, queries.jobs.count_jobs(most)),
            db.run(conn, queries.workers.list_workers()),
            db.run(conn, queries.jobs.list_unknown_tasks(most)),
            db.run(conn, queries.schedules.list_schedules()),
            db.run(conn, queries.jobs.count_finished(most)),
        )
