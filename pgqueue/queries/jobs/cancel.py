"""Cancelling jobs."""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple
from uuid import UUID

from pgqueue.queries.base import Query, Statements, fill, packed
from pgqueue.queries.jobs.parts import CANCEL_WAITING, COMPENSATED, MAY_NOTIFY
from pgqueue.queries.jobs.ties import EDGES, NOTIFY_KEEPERS

# The payload with which CANCEL notifies workers on the schema's channel. No queue can have this name.
CANCEL_PAYLOAD = "!cancel"

# Cancel jobs. A waiting job ends at once, in the caller's transaction. A running job gets a cancel request, and
# workers are notified when the transaction commits; whatever its worker writes then, except a success or a failure,
# ends the job as cancelled.
# The rows are locked first, with the children of jobs of workflows, in the order of ids, as HOLD does. That waits for a
# claim in flight (one statement), so the job is seen either waiting or running and cannot slip through. The rest goes
# by the state that the lock has found: this statement's own snapshot may be older, and `j.state` would be compared with
# that. By primary key. Returns the state that each job had, and nothing for one that has ended or never was.
CANCEL: LiteralString = fill(
    """
with asked as (
    select g.id from unnest((select %(ids)s::bigint[])) as g(id)
), tied_ones as materialized (
    select j.id from {s}.job_live j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and (j.ties is not null) is true
), {edges}, held as materialized (
    select id, state, task, queue from {s}.job_live
    where id = any(array(select id from asked union select child_id from edge)) order by id for update
), found as materialized (
    select id, state, task, queue from held where id in (select id from asked) order by id
), ended as (
    delete from {s}.job_live j using found
    where j.id = any(array[found.id]) and found.state in ('pending', 'blocked')
    returning j.*, 'cancelled' as target, %(reason)s::text as reason
), {cancel_waiting}, requested as (
    update {s}.job_live j set cancel_requested_at = now() from found
    where j.id = any(array[found.id]) and found.state = 'running' and j.cancel_requested_at is null returning j.id
), workers_notified as (
    select count(pg_notify({channel}, '!cancel')) from requested where {may_notify}
), {notify_keepers}, {compensated}
select found.id, found.state, found.task, found.queue
from found, workers_notified, waiters_notified, keepers_notified, compensated""",
    edges=fill(EDGES, own="tied_ones"),
    compensated=COMPENSATED,
    cancel_waiting=CANCEL_WAITING,
    notify_keepers=NOTIFY_KEEPERS,
    may_notify=MAY_NOTIFY,
)

# Find the jobs with a cancel request among those that a worker holds. By primary key: in job_live_running each job that
# this worker ever claimed may be a dead entry.
CANCEL_REQUESTS: LiteralString = """
select id from {s}.job_live
where id = any((select %(held)s::bigint[])::bigint[]) and worker_id = %(worker)s and state = 'running'
and cancel_requested_at is not null"""


class FoundToCancel(NamedTuple):
    """A job that was waiting or running when it was cancelled, and its state then."""

    id: int
    state: str
    task: str
    queue: str


class CancelQueries(Statements):
    """Cancelling jobs."""

    def cancel(self, ids: Sequence[int], reason: str) -> Query[list[FoundToCancel]]:
        """Cancel jobs; returns them as they were, without those that had ended or never were."""
        params = {"ids": packed(ids), "reason": reason}
        return Query(self._sql(CANCEL), lambda rows: [FoundToCancel(*row) for row in rows], params)

    def cancel_requests(self, worker: UUID, held: Sequence[int]) -> Query[list[int]]:
        """Find the jobs with a cancel request among those that a worker holds."""
        params = {"worker": worker, "held": packed(held)}
        return Query(self._sql(CANCEL_REQUESTS), lambda rows: [row[0] for row in rows], params)
