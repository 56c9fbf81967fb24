"""Queues as operators see them: how full each is, who serves it, and whether it is paused."""

import builtins
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from pgqueue.queries.base import Query, Statements

# List queues. The view reads the lanes of job_live_ready up to a bound each, and job_live_running up to a bound.
LIST: LiteralString = """
select l.queue, l.due, l.due_capped, l.running, l.scheduled, l.scheduled_capped, l.oldest_due_seconds, l.paused_at,
       l.paused_until, l.paused_by, l.paused_reason, l.workers, l.slots
from {s}.queue_load l order by l.queue"""


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """How full a queue is, and who serves it.

    `due_capped` and `scheduled_capped`: there are more than were counted. `workers` claim its jobs, into `slots`.
    """

    queue: str
    due: int
    due_capped: bool
    running: int
    scheduled: int
    scheduled_capped: bool
    oldest_due_seconds: float | None
    paused_at: datetime | None
    paused_until: datetime | None
    paused_by: str | None
    paused_reason: str | None
    workers: int
    slots: int


class QueueQueries(Statements):
    """Queues."""

    def list(self) -> Query[builtins.list[QueueLoad]]:
        """List the queues that hold jobs, are served by name, or were paused once."""
        return Query(self._sql(LIST), lambda rows: [QueueLoad(*row) for row in rows])
