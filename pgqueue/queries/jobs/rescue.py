"""Taking jobs from dead workers, and from one that does not know of them."""

import json
from collections.abc import Mapping, Sequence
from typing import LiteralString, NamedTuple
from uuid import UUID

from pgqueue.jobs.job import JobState
from pgqueue.queries.base import Query, Statements
from pgqueue.queries.jobs.resolve import CARRIED

# Take the running jobs of workers that have been declared lost, or whose row is gone. A job with an attempt left is
# pending again at once; one without, or one that has cost as many workers as its task allows, becomes a dead letter
# that names them all. From the second crash on jobs come back spread over seconds: whoever was with the guilty one in a
# worker should not be with it each time. Rows that somebody else holds (a resolve in flight, another rescuer) are
# skipped and looked at next time.
# A job may name a worker without a row. `stranger` looks for such between the workers there are: it hops through
# job_live_running from one to the next in each gap, so that it costs a probe a worker, whatever the statistics say and
# however many jobs run, or have run and are dead entries that somebody's snapshot keeps.
# The naive forms: joining all running rows to their workers, which an unanalysed table does by reading everything;
# hopping through all that is there, dead entries too; and deleting the worker's row first, which leaves jobs running
# for ever if the process dies in between.
RESCUE: LiteralString = (
    """
with recursive gap(low, high) as (
    select lag(id, 1, '00000000000000000000000000000000') over (order by id), id
    from (select id from {s}.worker union all select 'ffffffffffffffffffffffffffffffff') as w
), stranger(id, high) as (
    select low, high from gap
    union all
    select (select worker_id from {s}.job_live where worker_id > s.id and worker_id < high order by 1 limit 1), high
    from stranger s where id is not null
), dead as materialized (
    select id, format('worker on %%s, pid %%s, %%s', host, pid, coalesce(
        death || ' at ' || lost_at, 'did not beat since ' || heartbeat_at)) as why
    from {s}.worker where lost_at is not null
    union all
    select id, 'the worker that ran this attempt has no row any more'
    from stranger where id is not null and id not in (select low from gap)
), lost as materialized (
    select found.*, dead.why,
        jsonb_build_object('type', 'pgqueue.WorkerLost', 'message', dead.why) as error
    from dead cross join lateral (
        select j.id, j.lease, j.attempt >= j.max_attempts
            or j.crash_count + 1 >= coalesce((%(limits)s::jsonb ->> j.task)::int, %(max_crashes)s) as spent
        from {s}.job_live j where j.worker_id = dead.id and j.state = 'running'
        and (%(only)s::bigint is null or j.id = %(only)s)
        limit %(at_most)s for update skip locked
    ) as found
    limit %(at_most)s
), again as (
    update {s}.job_live j
    set state = 'pending', worker_id = null, claimed_at = null, crash_count = j.crash_count + 1,
        run_at = now() + (j.crash_count > 0)::int * make_interval(secs => random() * 2 ^ least(j.crash_count, 6))
    from lost where j.id = any(array[lost.id]) and j.state = 'running' and j.lease = lost.lease
    and not lost.spent and j.cancel_requested_at is null
    returning j.id, 'pending' as target, j.attempt, j.lease, lost.error
), ended as (
    delete from {s}.job_live j using lost
    where j.id = any(array[lost.id]) and j.state = 'running' and j.lease = lost.lease
    and (lost.spent or j.cancel_requested_at is not null)
    returning j.*, lost.error, lost.why,
        case when j.cancel_requested_at is null then 'failed' else 'cancelled' end as target
), finished as (
    insert into {s}.job_finished ("""
    + CARRIED
    + """, state, reason)
    select """
    + CARRIED
    + """, target, 'cancelled by request' from ended where target = 'cancelled'
), dead_lettered as (
    insert into {s}.dead_letter (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt,
        max_attempts, crash_count, lease, worker_id, claimed_at, reason, error)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count + 1,
        lease, worker_id, claimed_at, 'crashed', error || jsonb_build_object('message', concat_ws('; ', (
            select string_agg(t.error ->> 'message', '; ' order by at) from {s}.transition t
            where job_id = ended.id and reason = 'rescued'), why))
    from ended where target = 'failed'
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, worker_id, reason, error)
    select id, 'running', target, attempt, lease, %(worker)s, 'rescued', error
    from (select * from again union all select id, target, attempt, lease, error from ended) as moved
)
select id, target from again union all select id, target from ended"""
)

# The jobs that RESCUE would take. Asked when it fails, to find the row that is to blame; reads all that run.
RESCUABLE: LiteralString = """
select j.id from {s}.job_live j where j.worker_id is not null and j.state = 'running'
and not exists (select from {s}.worker w where w.id = j.worker_id and w.lost_at is null)
order by j.id limit %(at_most)s"""

# Give back the running jobs of this worker that it does not know of: a claim was committed, but its answer was lost
# with the connection. `held` are the jobs it has in a slot or whose outcome is still to be written; it must not be
# claiming meanwhile. Reads job_live_running for one worker. As everywhere, a job that somebody has asked to cancel does
# not go on. The rows are locked first: what follows goes by what the lock found, for a cancellation may be in flight.
RELEASE_STRAYS: LiteralString = (
    """
with strays as materialized (
    select id, lease, cancel_requested_at from {s}.job_live
    where worker_id = %(worker)s and state = 'running' and not id = any(%(held)s::bigint[]) for update
), again as (
    update {s}.job_live j
    set state = 'pending', worker_id = null, claimed_at = null, attempt = j.attempt - 1
    from strays where j.id = any(array[strays.id]) and j.state = 'running' and j.lease = strays.lease
    and strays.cancel_requested_at is null
    returning j.id, 'pending' as target, j.attempt + 1 as attempt, j.lease, 'released' as reason
), ended as (
    delete from {s}.job_live j using strays
    where j.id = any(array[strays.id]) and j.state = 'running' and j.lease = strays.lease
    and strays.cancel_requested_at is not null
    returning j.*, 'cancelled' as target, 'cancelled by request' as reason
), finished as (
    insert into {s}.job_finished ("""
    + CARRIED
    + """, state, reason)
    select """
    + CARRIED
    + """, target, reason from ended
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, worker_id, reason)
    select id, 'running', target, attempt, lease, %(worker)s, reason
    from (select id, target, attempt, lease, reason from again
          union all select id, target, attempt, lease, reason from ended) as moved
)
select id from again union all select id from ended"""
)


class RescuedJob(NamedTuple):
    """A job taken from a dead worker, and where it went."""

    id: int
    state: JobState


class RescueQueries(Statements):
    """Taking jobs from workers that do not run them."""

    def rescue(
        self,
        worker: UUID | None,
        max_crashes: int = 5,
        limits: Mapping[str, int] = {},
        at_most: int = 500,
        only: int | None = None,
    ) -> Query[list[RescuedJob]]:
        """Take up to `at_most` running jobs from dead workers, or only one that is known by its id.

        `limits`: tasks that may crash more or less often.
        """
        params = {"worker": worker, "at_most": at_most, "max_crashes": max_crashes, "limits": json.dumps(limits)}
        params["only"] = only
        return Query(self._sql(RESCUE), lambda rows: [RescuedJob(row[0], JobState(row[1])) for row in rows], params)

    def rescuable(self, at_most: int = 500) -> Query[list[int]]:
        """The running jobs of dead workers."""
        return Query(self._sql(RESCUABLE), lambda rows: [row[0] for row in rows], {"at_most": at_most})

    def release_strays(self, worker: UUID, held: Sequence[int]) -> Query[list[int]]:
        """Give back this worker's running jobs but those it holds; returns their ids."""
        params = {"worker": worker, "held": list(held)}
        return Query(self._sql(RELEASE_STRAYS), lambda rows: [row[0] for row in rows], params)
