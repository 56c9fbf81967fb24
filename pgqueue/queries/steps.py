"""Durable steps: recorded under the lease of their job, read again by its next attempts, and undone."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple, Protocol, TypeAlias

from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.step import NewStep, RecordedStep, can_be_undone
from pgqueue.queries.base import Query, Row, Statements, fill, first_value, lines, packed, sparse

# The jobs of a batch that are still running under the lease given, locked until the commit: nobody takes the lease of
# one meanwhile. Share locks, for a statement of another step of the same job must not wait for this one; a rescue, a
# claim and a resolve want the row for themselves, so they wait or skip it. Locked in the order of ids, by primary key,
# with the lease in a CASE as in SUCCEED. The naive form, `where exists (…)` without a lock, records a step for an
# attempt that has lost its lease between its look and its commit.
HELD: LiteralString = """held as materialized (
    select j.id, j.created_at from {s}.job_live j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.state = 'running'
    and case when (j.id, j.lease) in (
        select id, lease from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
    ) then true end
    order by j.id for share
)"""
# The columns of a recorded step. Reads `t`.
STEP: LiteralString = """t.name, t.kind, t.value::text, t.done, t.timed_out, t.wake_at,
       extract(epoch from t.wake_at - clock_timestamp())::float8, t.undo is not null, t.version, t.number"""

# Record steps of running jobs, each once: what is recorded under a name stays, and comes back. So a batch whose answer
# was lost can be sent again. Times count from the statement. Nothing comes back for a job that has lost its lease.
# By the primary keys of jobs and steps.
_RECORD: LiteralString = fill(
    r"""
with given as materialized (
    select g.* from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]), (select %(attempts)s::int[]),
        (select string_to_array(%(names)s, E'\n')), (select string_to_array(%(kinds)s, E'\n')),
        (select string_to_array(%(values)s, E'\n', '')), (select string_to_array(%(seconds)s, ',', '')::float8[]),
        (select string_to_array(%(waits)s, E'\n', '')), (select string_to_array(%(keys)s, E'\n', '')),
        (select string_to_array(%(undos)s, E'\n', '')), (select %(versions)s::int[])
    ) with ordinality as g(job_id, lease, attempt, name, kind, value, seconds, waits, key, undo, version, ord)
), {held}, written as (
    insert into {s}.step (job_id, name, kind, done, value, wake_at, waits, wait_key, undo, attempt, lease, version, at)
    select g.job_id, g.name, g.kind, g.waits is null, g.value::jsonb,
           clock_timestamp() + make_interval(secs => g.seconds), g.waits, g.key, g.undo::jsonb, g.attempt, g.lease,
           g.version, clock_timestamp()
    from given g where g.job_id in (select id from held) order by g.ord
    on conflict (job_id, name) do nothing
    returning *
){and_marked}
select g.ord, {step}, true
from given g join written t on t.job_id = g.job_id and t.name = g.name
union all
select g.ord, {step}, false
from given g join held on held.id = g.job_id
cross join lateral (select * from {s}.step where job_id = g.job_id and name = g.name limit 1) as t""",
    held=HELD,
    step=STEP,
)
RECORD: LiteralString = fill(_RECORD, and_marked="")

# Record one step, as most records are of jobs that do one thing after the other: what RECORD does, with the same
# promises. To take apart eleven arrays of one, and to join what comes of it, costs more than to write the row.
RECORD_ONE: LiteralString = fill(
    """
with held as materialized (
    select j.id from {s}.job_live j
    where j.id = %(id)s::bigint and j.lease = %(lease)s::bigint and j.state = 'running' for share
), written as (
    insert into {s}.step (job_id, name, kind, done, value, wake_at, waits, wait_key, undo, attempt, lease, version, at)
    select held.id, %(name)s::text, %(kind)s::text, %(waits)s::text is null, %(value)s::jsonb,
           clock_timestamp() + make_interval(secs => %(seconds)s::float8), %(waits)s::text, %(key)s::text,
           %(undo)s::jsonb, %(attempt)s::int, %(lease)s::bigint, %(version)s::int, clock_timestamp()
    from held
    on conflict (job_id, name) do nothing
    returning *
)
select 1, {step}, true from written t
union all
select 1, {step}, false
from held cross join lateral (
    select * from {s}.step where job_id = held.id and name = %(name)s::text limit 1) as t""",
    step=STEP,
)

# Record steps, and mark their jobs: what RECORD does. A recorded step makes the next failure the first one again, and a
# job that has a step which can be undone gets the header `$undo`, by which all statements that end it know. From then
# on it does not expire: it has begun. The topic of an event for which a job waits is written down when it is the
# first that ever waits for it: whoever publishes such an event from then on tells those who wait. A statement of its
# own, because most records mark nothing.
RECORD_AND_MARK: LiteralString = fill(
    _RECORD,
    and_marked=""", marked as (
    update {s}.job_live j
    set attempt = 1, expires_at = null, headers = case when m.undone then j.headers::jsonb || '{{"$undo": true}}'::jsonb
                                                       else j.headers end
    from (select g.job_id, bool_or(g.undo is not null) as undone from given g
          where g.job_id in (select id from held) group by g.job_id) as m
    where j.id = any(array[m.job_id]) and j.state = 'running'
    and (j.attempt > 1 or m.undone and not j.headers::jsonb ? '$undo'::text)
), awaited as (
    insert into {s}.awaited_topic (name)
    select distinct g.waits from given g where g.kind = 'event' and g.job_id in (select id from held)
    and (select a.name from {s}.awaited_topic a where a.name = g.waits limit 1) is null
    order by g.waits
    on conflict do nothing
)""",
)

# Read the steps of jobs, each job's in the order of their records. By primary key; a job without steps costs a probe.
LOAD: LiteralString = fill(
    """
select t.job_id, {step} from unnest((select %(ids)s::bigint[])) as g(id)
cross join lateral (select * from {s}.step where job_id = g.id) as t
order by t.number""",
    step=STEP,
)

# Let jobs wait until a time of the database's clock, in the transaction in which RESOLVE has put them back; it holds
# their rows. `signalled`: a signal came while the job still ran, so it goes on at once; the duty that delivers signals
# has changed this very row, and whoever locked it last sees what the other one wrote. Without a time: the year 9000.
# The attempt is given back, and the job does not expire any more. By primary key.
PUT_TO_SLEEP: LiteralString = r"""
with given as (
    select g.* from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]),
        (select string_to_array(%(times)s, ',', '')::timestamptz[])
    ) as g(id, lease, at)
), sleeper as (
    update {s}.job_live j
    set run_at = case when j.signalled then clock_timestamp() else coalesce(g.at, '9000-01-01Z'::timestamptz) end,
        signalled = null, attempt = 0, expires_at = null
    from given g
    where j.id = any(array[g.id]) and j.lease = g.lease and j.state in ('pending', 'blocked')
    returning j.id, j.run_at::timestamptz <= clock_timestamp() as due
)
select id from sleeper where due"""

# Undo the steps of jobs that have ended, and call off what they have called, in the transaction that has ended them;
# jobs that live on are left. The function has the owner's rights and is planned once.
COMPENSATE: LiteralString = """
select count({s}.compensate(g.id, g.lease, true))
from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
where (select j.id from {s}.job_live j where j.id = g.id limit 1) is null"""

# Undo the steps of a job that runs and goes on, under its lease, and record that as a step: a later attempt finds it
# and undoes nothing once more. Returns no row if the lease is lost.
COMPENSATE_RUNNING: LiteralString = fill(
    """
with held as materialized (
    select j.id, j.lease from {s}.job_live j
    where j.id = %(id)s::bigint and j.state = 'running' and j.lease = %(lease)s::bigint for update
), written as (
    insert into {s}.step (job_id, name, kind, attempt, lease, version, at)
    select held.id, %(name)s::text, 'value', %(attempt)s::int, held.lease, %(version)s::int, clock_timestamp() from held
    on conflict (job_id, name) do nothing returning *
)
select {step}, {s}.compensate(t.job_id, t.lease, false) from written t""",
    step=STEP,
)

# Let the next undo follow each that has succeeded, in the transaction that has written its success.
UNDO_ENDED: LiteralString = """
select count({s}.undo_ended(g.id)) from unnest((select %(ids)s::bigint[])) as g(id)"""

# Forget the step of a job with this name and those that were recorded after it, or all of them without a name. Returns
# how many. The row of the job is locked by the caller.
FORGET: LiteralString = """
with first as materialized (
    select coalesce(min(t.number) filter (where %(name)s::text is null or t.name = %(name)s::text),
                    9223372036854775807::bigint) as number
    from {s}.step t where t.job_id = %(id)s::bigint
), gone as (
    delete from {s}.step t using first where t.job_id = %(id)s::bigint and t.number >= first.number returning 1
)
select count(*) from gone"""

# Read what a job waits for: waits that go on, sleeps that are not over, and calls, how many and which of them are open.
# By primary key, call_step and call_open.
OPEN_WAITS: LiteralString = """
select t.name, t.kind, t.waits, t.wait_key, t.wake_at, t.at,
       case when t.kind = 'call' then (select count(*) from {s}.call c where c.number = t.number) end,
       case when t.kind = 'call' then array(
           select c.child_id from {s}.call c where c.number = t.number and not c.ended order by c.child_id) end
from {s}.step t
where t.job_id = %(id)s::bigint and (not t.done or t.kind = 'sleep' and t.wake_at > clock_timestamp())
order by t.number limit 20"""

# Delete what belongs to jobs that are nowhere any more: steps and undos that have succeeded; signals to jobs that have
# ended; and events that are older than a week. Each part walks along a primary key, from where the last walk ended, and
# looks at so many rows (of steps: jobs): what has to stay, however much, is passed over and not read each time. Any
# number of workers may do it at once. Jobs are looked for by id in scalar subselects: `not exists` may be planned as a
# join that reads all dead letters. The ids of events rise with their time, so the oldest come first. Returns where each
# walk ended, 0 after the last row.
SWEEP: LiteralString = """
with recursive owner(job_id, n) as (
    (select t.job_id, 1 from {s}.step t where t.job_id > %(steps)s::bigint order by t.job_id limit 1)
    union all
    select (select t.job_id from {s}.step t where t.job_id > o.job_id order by t.job_id limit 1), o.n + 1
    from owner o where o.job_id is not null and o.n < %(at_most)s::int
), letter as materialized (
    select g.id, g.job_id, g.seen from {s}.signal g where g.id > %(signals)s::bigint
    order by g.id limit %(at_most)s::int
), undone as materialized (
    select u.job_id, u.number, u.ended_at from {s}.undo u where u.job_id > %(undos)s::bigint
    order by u.job_id, u.number limit %(at_most)s::int
), event as materialized (
    select e.id, e.at from {s}.awaited_event e order by e.id limit %(at_most)s::int
), called as materialized (
    select c.child_id, c.job_id, c.step, c.number from {s}.call c where c.child_id > %(calls)s::bigint
    order by c.child_id limit %(at_most)s::int
), gone as materialized (
    select o.job_id from (
        select job_id from owner where job_id is not null
        union select job_id from undone where ended_at is not null) as o
    where (select j.id from {s}.job_live j where j.id = o.job_id limit 1) is null
    and (select j.id from {s}.dead_letter j where j.id = o.job_id limit 1) is null
    and (select j.id from {s}.job_finished j where j.id = o.job_id limit 1) is null
), no_steps as (
    delete from {s}.step t where t.job_id = any(array(select job_id from gone))
), no_undos as (
    delete from {s}.undo u using undone o
    where u.job_id = any(array[o.job_id]) and u.number = o.number and o.ended_at is not null
    and o.job_id in (select job_id from gone)
), no_signals as (
    delete from {s}.signal g where g.id = any(array(
        select l.id from letter l where l.seen
        and (select j.id from {s}.job_live j where j.id = l.job_id limit 1) is null
        and (select j.id from {s}.dead_letter j where j.id = l.job_id limit 1) is null))
), no_events as (
    delete from {s}.awaited_event e where e.id = any(array(
        select o.id from event o where o.at < now() - interval '7 days'))
), no_calls as (
    delete from {s}.call c using called o
    where c.child_id = any(array[o.child_id])
    and (select t.number from {s}.step t where t.job_id = o.job_id and t.name = o.step limit 1)
        is distinct from o.number
    and (select j.id from {s}.job_live j where j.id = o.child_id limit 1) is null
)
select coalesce((select case when count(*) < %(at_most)s::int then 0 else max(job_id) end from owner), 0),
       coalesce((select case when count(*) < %(at_most)s::int then 0 else max(id) end from letter), 0),
       coalesce((select case when count(*) < %(at_most)s::int then 0 else max(job_id) end from undone), 0),
       coalesce((select case when count(*) < %(at_most)s::int then 0 else max(child_id) end from called), 0)"""

Owned: TypeAlias = tuple[ClaimedJob, NewStep]


class Leased(Protocol):
    """A job, claimed or rescued."""

    @property
    def id(self) -> int: ...
    @property
    def lease(self) -> int: ...


class OpenWait(NamedTuple):
    """A sleep, wait or call of a job that is not over. `waits` and `key`: the signal or event that it is for. `calls`:
    how many jobs it has called, `open`: those that have not ended."""

    name: str
    kind: str
    waits: str | None
    key: str | None
    wake_at: datetime | None
    since: datetime
    calls: int | None
    open: list[int] | None


class Swept(NamedTuple):
    """Where a sweep has ended: the ids of a job with steps, of a signal, of a job with undos, and of a
    called job."""

    steps: int = 0
    signals: int = 0
    undos: int = 0
    calls: int = 0


class StepQueries(Statements):
    """Durable steps."""

    def record(self, steps: Sequence[Owned]) -> Query[list[RecordedStep | None]]:
        """Record steps; returns each as it is recorded, in order, None where the lease of its job is lost."""
        marking = any(
            job.attempt > 1 or step.kind == "event" or (step.undo and not can_be_undone(job)) for job, step in steps
        )
        if len(steps) == 1 and not marking:
            return Query(self._sql(RECORD_ONE), lambda rows: in_order(rows, 1), _one(*steps[0]))
        params = {
            "ids": packed(job.id for job, _ in steps),
            "leases": packed(job.lease for job, _ in steps),
            "attempts": packed(job.attempt for job, _ in steps),
            "names": lines(step.name for _, step in steps),
            "kinds": lines(step.kind for _, step in steps),
            "values": lines(step.value for _, step in steps),
            "seconds": sparse(step.seconds for _, step in steps),
            "waits": lines(step.waits for _, step in steps),
            "keys": lines(step.key for _, step in steps),
            "undos": lines(step.undo for _, step in steps),
            "versions": packed(step.version for _, step in steps),
        }
        template = RECORD_AND_MARK if marking else RECORD
        return Query(self._sql(template), lambda rows: in_order(rows, len(steps)), params)

    def load(self, jobs: Sequence[int]) -> Query[dict[int, list[RecordedStep]]]:
        """Read the steps of jobs."""
        return Query(self._sql(LOAD), _by_job, {"ids": packed(jobs)})

    def put_to_sleep(self, jobs: Sequence[tuple[ClaimedJob, datetime | None]]) -> Query[set[int]]:
        """Let jobs that were put back wait until a time; returns those that a signal lets go on at once."""
        params = {
            "ids": packed(job.id for job, _ in jobs),
            "leases": packed(job.lease for job, _ in jobs),
            "times": sparse(at and at.isoformat() for _, at in jobs),
        }
        return Query(self._sql(PUT_TO_SLEEP), lambda rows: {row[0] for row in rows}, params)

    def compensate(self, jobs: Sequence[Leased]) -> Query[int]:
        """Undo the steps of those of these jobs that have ended, by their ids and leases."""
        params = {"ids": packed(job.id for job in jobs), "leases": packed(job.lease for job in jobs)}
        return Query(self._sql(COMPENSATE), first_value, params)

    def compensate_running(self, job: ClaimedJob, step: NewStep) -> Query[RecordedStep | None]:
        """Undo the steps of a job that goes on, and record it; None if its lease is lost."""
        params = {
            "id": job.id, "lease": job.lease, "attempt": job.attempt, "name": step.name, "version": step.version,
        }  # fmt: skip
        return Query(self._sql(COMPENSATE_RUNNING), lambda rows: read_step(rows[0][:-1]) if rows else None, params)

    def undo_ended(self, jobs: Sequence[int]) -> Query[int]:
        """Let the next undo follow each of these jobs, which have succeeded; returns how many do."""
        return Query(self._sql(UNDO_ENDED), first_value, {"ids": packed(jobs)})

    def forget(self, job: int, name: str | None) -> Query[int]:
        """Forget the step of a job with a name and those after it, or all; returns how many."""
        return Query(self._sql(FORGET), first_value, {"id": job, "name": name})

    def open_waits(self, job: int) -> Query[list[OpenWait]]:
        """Read what a job waits for."""
        return Query(self._sql(OPEN_WAITS), lambda rows: [OpenWait(*row) for row in rows], {"id": job})

    def sweep(self, after: Swept, at_most: int) -> Query[Swept]:
        """Delete what nobody needs any more, among so many rows behind a place; returns the next place."""
        return Query(self._sql(SWEEP), lambda rows: Swept(*rows[0]), {**after._asdict(), "at_most": at_most})


def read_step(row: Row) -> RecordedStep:
    """Read the columns of a recorded step."""
    return RecordedStep(*row)


def _one(job: ClaimedJob, step: NewStep) -> dict[str, Any]:
    """Return the parameters of RECORD_ONE."""
    return {
        "id": job.id, "lease": job.lease, "attempt": job.attempt, "name": step.name, "kind": step.kind,
        "value": step.value or None, "seconds": step.seconds, "waits": step.waits or None, "key": step.key or None,
        "undo": step.undo or None,
        "version": step.version,
    }  # fmt: skip


def in_order(rows: Sequence[Row], count: int) -> list[RecordedStep | None]:
    """Read recorded steps by their ordinals; None where nothing came back."""
    found: list[RecordedStep | None] = [None] * count
    for row in rows:
        found[row[0] - 1] = read_step(row[1:])
    return found


def _by_job(rows: Sequence[Row]) -> dict[int, list[RecordedStep]]:
    found: dict[int, list[RecordedStep]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(read_step(row[1:]))
    return found
