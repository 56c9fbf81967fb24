"""Ending jobs that are no longer wanted."""

from collections.abc import Sequence
from typing import LiteralString
from uuid import UUID

from pgqueue.queries.base import Query, Statements, first_value, packed
from pgqueue.queries.jobs.resolve import CARRIED

# What a cancellation says on the NOTIFY channel. No queue can be called like it.
CANCEL_PAYLOAD = "!cancel"

# Cancel a job. A waiting one ends here and now, in the caller's transaction. A running one is marked, and its worker
# told when the transaction commits; whatever the worker then writes but a success or a failure ends it as cancelled.
# Who waits for a job that ends here is told at the commit, too.
# The row is locked first: a claim in flight is waited for (it lasts one statement), so that the job is seen either
# waiting or running and cannot slip through. What follows goes by the state that the lock found: this statement's own
# snapshot may be older, and `j.state` would be compared with that. Returns the state it had; nothing for a job that
# has ended or never was.
CANCEL: LiteralString = (
    """
with found as materialized (
    select id, state from {s}.job_live where id = %(id)s for update
), ended as (
    delete from {s}.job_live j using found
    where j.id = any(array[found.id]) and found.state in ('pending', 'blocked') returning j.*
), finished as (
    insert into {s}.job_finished ("""
    + CARRIED
    + """, state, reason)
    select """
    + CARRIED
    + """, 'cancelled', %(reason)s from ended
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, state, 'cancelled', attempt, lease, %(reason)s from ended
), marked as (
    update {s}.job_live j set cancel_requested_at = now() from found
    where j.id = any(array[found.id]) and found.state = 'running' and j.cancel_requested_at is null returning j.id
), told as (
    select count(pg_notify({channel}, '!cancel')) from marked where pg_notification_queue_usage() < 0.5
), heard as (
    select count(pg_notify({channel} || '.ended', w.job_id::text))
    from ended cross join lateral (select job_id from {s}.waiter where job_id = ended.id limit 1) as w
    where pg_notification_queue_usage() < 0.5
)
select found.state from found, told, heard"""
)

# Which of its jobs does somebody want cancelled? By primary key: in job_live_running each job that this worker ever
# claimed may be a dead entry.
CANCEL_REQUESTS: LiteralString = """
select id from {s}.job_live
where id = any((select %(held)s::bigint[])::bigint[]) and worker_id = %(worker)s and state = 'running'
and cancel_requested_at is not null"""


class CancelQueries(Statements):
    """Ending jobs that are no longer wanted."""

    def cancel(self, job_id: int, reason: str) -> Query[str | None]:
        """Cancel a job; returns the state it had, None if it had ended or never was."""
        return Query(self._sql(CANCEL), first_value, {"id": job_id, "reason": reason})

    def cancel_requests(self, worker: UUID, held: Sequence[int]) -> Query[list[int]]:
        """Which of the jobs that a worker holds are to be cancelled."""
        params = {"worker": worker, "held": packed(held)}
        return Query(self._sql(CANCEL_REQUESTS), lambda rows: [row[0] for row in rows], params)
