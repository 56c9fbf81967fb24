"""What one must know to say why a job does not run. Each statement costs the same on any backlog."""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

from pgqueue.jobs.job import Job
from pgqueue.queries.base import Query, Row, fill
from pgqueue.queries.jobs.count import SERVES
from pgqueue.queries.why_turns import TurnWhyQueries

MOST_AHEAD = 10_000

# Read what a job that has not ended waits for: its times, its key, and the workers that could take it. The
# workers are few; how many jobs each runs comes from job_live_running. By primary key.
# `label` is the version of the task that the job needs, with the parameters that some worker did not know: `2+gift`.
WAITS: LiteralString = fill(
    """
select extract(epoch from j.run_at::timestamptz - now())::float8, j.expires_at,
       j.expires_at <= now() and j.attempt = 0, j.unique_key is not null, coalesce(j.unique_live, false),
       coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.headers::jsonb ->> 'schedule'::text,
       j.headers::jsonb ->> 'tick'::text, served.workers, served.knowing, served.slots, served.running, j.lane
from {s}.job_live j
cross join lateral (
    select split_part(coalesce(j.headers::jsonb ->> '$version'::text, '1'), '+', 1) as version
) as needs
cross join lateral (
    select count(*)::int as workers, count(*) filter (where w.knows)::int as knowing,
           coalesce(sum(w.slots) filter (where w.knows), 0)::int as slots,
           coalesce(sum(w.running) filter (where w.knows), 0)::int as running
    from (
        select w.slots,
               (select count(*) from {s}.job_live r where r.worker_id = w.id) as running,
               case needs.version when '1' then j.task::text else j.task::text || '@' || needs.version end
               = any(w.tasks) as knows
        from {s}.worker w
        where w.kind = 'worker' and w.lost_at is null and not w.stopping and w.quiet_at is null
        and w.heartbeat_at > now() - w.lease_seconds * interval '1 s' and {serves}
    ) as w
) as served
where j.id = %(id)s::bigint""",
    serves=fill(SERVES, queue="j.queue::text"),
)

# Read what a job of a workflow waits for: how many edges it has, and the first parents that have not ended, jobs and
# groups, with what their edges ask, whether one runs in the place of the job, and the queue of each job. By
# dependency_child, up to a bound; the parents by primary key.
PARENTS: LiteralString = """
with edge as materialized (
    select d.parent_id, d.runs_after from {s}.dependency d where d.child_id = %(id)s::bigint limit 10001
), parent as (
    select e.parent_id as id, e.runs_after, p.name, p.state, p.stands_in, p.queue from edge e cross join lateral (
        select j.task::text as name, j.state, false as stands_in, j.queue::text as queue
        from {s}.job_live j where j.id = e.parent_id
        union all
        select w.name, case when w.sealed then w.state else 'open' end, w.replaces = %(id)s::bigint, null
        from {s}.workflow w where w.id = e.parent_id and w.state = 'running'
        union all
        select d.task::text, 'failed', false, d.queue::text from {s}.dead_letter d
        where d.id = e.parent_id and d.ties::int & 16 > 0) as p
)
select (select count(*) from edge)::int, (select count(*) from parent)::int, p.id, p.name, p.state, p.runs_after,
       coalesce(p.stands_in, false), p.queue
from (select 1) as one left join (select * from parent order by id limit %(most)s::int) as p on true order by p.id"""

# Read because of which parent a job is skipped, and where that one was skipped itself, because of which one, up to a
# bound: from each job to the parent of an edge that did not come true, one that was not skipped if there is such a one.
# By dependency_child, at most so many edges of a job, in the order of that index: without it, or with a plain `=`, the
# planner reads the table where the statistics do not know its rows. The parents by primary keys, in the partitions
# since the day before the workflow. It waits for nobody: a parent that somebody has brought back is not found.
SKIPPED_FOR: LiteralString = """
with recursive since as materialized (
    select w.created_at - interval '1 day' as at from {s}.workflow w where w.id = %(workflow)s::bigint
), up(depth, id, name, state, reason, runs_after, queue) as (
    select 0, %(id)s::bigint, null::text, null::text, 'skipped'::text, null::text, null::text
    union all
    select up.depth + 1, unmet.id, unmet.name, unmet.state, unmet.reason, unmet.runs_after, unmet.queue
    from up cross join lateral (
        select parent.*, e.runs_after
        from (select d.parent_id, d.runs_after from {s}.dependency d
              where d.child_id = any(array[up.id]) order by d.child_id limit %(most)s::int) as e
        cross join lateral (
            select d.id, d.task::text as name, 'failed'::text as state, d.reason, d.queue::text as queue
            from {s}.dead_letter d where d.id = any(array[e.parent_id])
            union all
            select f.id, f.task::text, f.state::text, f.reason, f.queue::text from {s}.job_finished f
            where f.id = any(array[e.parent_id]) and f.finished_at >= (select at from since)
            union all
            select w.id, w.name, w.state::text, w.stop_reason, null from {s}.workflow w
            where w.id = any(array[e.parent_id]) and w.state <> 'running'
        ) as parent
        where e.runs_after <> 'e' and not (e.runs_after = 's' and parent.state = 'succeeded'
            or e.runs_after = 'f' and parent.state = 'failed')
        order by (parent.reason = 'skipped') is true, parent.id limit 1
    ) as unmet
    where up.reason = 'skipped' and up.depth < %(deep)s::int
)
select up.id, up.name, up.state, up.reason, up.runs_after, up.queue from up where up.depth > 0 order by up.depth"""
MOST_PARENTS = 10_000
DEEPEST = 100

# Read the recorded steps of a job for people, the first ones, without their values. By the primary key; in the order of
# their records: a step for which a job waits is recorded when the wait begins.
STEPS: LiteralString = """
select t.name, t.kind, t.at, t.attempt, t.done, t.timed_out, t.wake_at, t.waits, t.wait_key, t.undo is not null
from {s}.step t where t.job_id = %(id)s::bigint order by t.number limit %(limit)s::int"""

# Read the values of the recorded steps of a job, as they are stored. By primary key.
STEP_VALUES: LiteralString = """
select t.name, t.value::text from {s}.step t where t.job_id = %(id)s::bigint and t.value is not null
order by t.number limit %(limit)s::int"""

# Count the due jobs that claims take before a place in a queue: of higher priority, or earlier in its lane. Hops along
# job_live_ready from one lane to the next, and reads of each lane only the part before the place, up to `most` and one
# more of all. The plain form, `priority > … or priority = … and (run_at, id) < …` over the queue, reads the whole lane.
# So does, before Postgres 18, `(run_at, id) < …` in one lane: it ends only where run_at is beyond the place, and the
# jobs of one batch have all one run_at. Hence two reads of a lane: what is due earlier, and what has that run_at and a
# lower id.
AHEAD: LiteralString = """
with recursive lane(priority) as (
    (select j.priority::smallint from {s}.job_live j
     where j.state = 'pending' and j.queue::text = %(queue)s::text
     and j.priority::smallint >= %(priority)s::int::smallint
     order by j.priority desc limit 1)
    union all
    select (select j.priority::smallint from {s}.job_live j
            where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint < lane.priority
            and j.priority::smallint >= %(priority)s::int::smallint
            order by j.priority desc limit 1)
    from lane where lane.priority is not null
)
select count(*) from (
    select from lane cross join lateral (
        select case when lane.priority > %(priority)s::int::smallint then now() else %(run_at)s::timestamptz end as at
    ) as place cross join lateral (
        (select from {s}.job_live j
         where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint = lane.priority
         and j.run_at::timestamptz < place.at
         order by j.run_at, j.id limit %(most)s::int + 1)
        union all
        (select from {s}.job_live j
         where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint = lane.priority
         and j.run_at::timestamptz = place.at and j.id < %(id)s::bigint
         order by j.run_at, j.id limit %(most)s::int + 1)
    ) as first
    limit %(most)s::int + 1) as counted"""

# Read the worker that runs a job, and for how long. By primary key.
RUNS_AT: LiteralString = """
select w.host, w.pid, extract(epoch from now() - j.claimed_at)::float8,
       extract(epoch from now() - w.heartbeat_at)::float8, w.lease_seconds, w.lost_at is not null, w.death
from {s}.job_live j join {s}.worker w on w.id = j.worker_id
where j.id = %(id)s::bigint and j.worker_id = %(worker)s::uuid"""


class Waits(NamedTuple):
    """What a job that waits is about. `label`: the version of its task that it needs, `2` or `2+parameter`.

    `workers`: how many living ones serve its queue and go on claiming; of those, `knowing` know task and version, and
    have `slots` in which `running` jobs run. `lane`: that of a metered job.
    """

    due_in: float
    expires_at: datetime | None
    is_expired: bool
    has_key: bool
    key_while_live: bool
    label: str
    schedule: str | None
    tick: str | None
    workers: int
    knowing: int
    slots: int
    running: int
    lane: int | None


class RunsAt(NamedTuple):
    """The worker that runs a job: where, for how many seconds, and how it is."""

    host: str
    pid: int
    seconds: float
    beat_seconds_ago: float
    lease_seconds: float
    is_lost: bool
    death: str | None


class Parent(NamedTuple):
    """A job or group for which a job waits, and after which end of it the job may run: s, e or f. `stands_in`: it is
    what runs in the place of the job."""

    id: int
    name: str
    state: str
    when: str
    stands_in: bool = False
    queue: str | None = None


class Parents(NamedTuple):
    """How many edges a job has, how many of its parents have not ended, and the first of these."""

    edges: int
    left: int
    first: list[Parent]


class Unmet(NamedTuple):
    """A job or group that ended otherwise than a job that waited for it asked: its end, and its reason; `when`: after
    which end of it the job would have run, s or f. `queue`: of a job; None for a group."""

    id: int
    name: str
    state: str
    reason: str | None
    when: str
    queue: str | None


class ShownStep(NamedTuple):
    """A recorded step as people see it, without its value: when it was recorded, and in which attempt. `wake_at`: until
    when a sleep or a wait goes on. `waits` and `key`: the signal or event that a wait is for."""

    name: str
    kind: str
    at: datetime
    attempt: int
    done: bool
    timed_out: bool
    wake_at: datetime | None
    waits: str | None
    key: str | None
    has_undo: bool


def _parents(rows: Sequence[Row]) -> Parents:
    return Parents(rows[0][0], rows[0][1], [Parent(*row[2:]) for row in rows if row[2] is not None])


class WhyQueries(TurnWhyQueries):
    """What one must know to say why a job does not run."""

    def waits(self, job: int) -> Query[Waits | None]:
        """Read what a job waits for; None if it has ended."""
        return Query(self._sql(WAITS), lambda rows: Waits(*rows[0]) if rows else None, {"id": job})

    def parents(self, job: int, most: int = 5) -> Query[Parents]:
        """Read what a job of a workflow waits for, up to `most` of its parents by name."""
        return Query(self._sql(PARENTS), _parents, {"id": job, "most": most})

    def skipped_for(self, job: int, workflow: int) -> Query[list[Unmet]]:
        """Read because of which parent a job of a workflow is skipped, and because of which one that parent, if it was
        skipped, and so on."""
        params = {"id": job, "workflow": workflow, "most": MOST_PARENTS, "deep": DEEPEST}
        return Query(self._sql(SKIPPED_FOR), lambda rows: [Unmet(*row) for row in rows], params)

    def steps(self, job: int, limit: int) -> Query[list[ShownStep]]:
        """Read the recorded steps of a job, without their values."""
        return Query(self._sql(STEPS), lambda rows: [ShownStep(*row) for row in rows], {"id": job, "limit": limit})

    def step_values(self, job: int, limit: int) -> Query[dict[str, str]]:
        """Read the values of the recorded steps of a job, by their names: JSON as it is stored."""
        return Query(self._sql(STEP_VALUES), dict, {"id": job, "limit": limit})

    def ahead(self, job: Job, most: int = MOST_AHEAD) -> Query[int]:
        """Count the due jobs that go before a job in its queue: up to `most` and one more."""
        params = {"queue": job.queue, "priority": job.priority, "run_at": job.run_at, "id": job.id, "most": most}
        return Query(self._sql(AHEAD), lambda rows: int(rows[0][0]), params)

    def runs_at(self, job: int, worker: UUID) -> Query[RunsAt | None]:
        """Read the worker that runs a job; None if it does not run there any more, or the worker's row is gone."""

        params = {"id": job, "worker": worker}
        return Query(self._sql(RUNS_AT), lambda rows: RunsAt(*rows[0]) if rows else None, params)
