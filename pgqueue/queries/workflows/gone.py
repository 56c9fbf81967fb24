"""Jobs that wait for what is gone: somebody has deleted rows by hand, or a process of an older release has ended a job,
and nothing told those that wait."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from pgqueue.queries.base import Query, Row, Statements, fill, start_of

# Whether parent `d.parent_id` of an edge may still tell of its end: it lives, or is a dead letter whose workflow holds,
# or is a group that is not settled. A parent that has told is not counted by its children any more.
_MAY_TELL: LiteralString = """((select true from {s}.job_live p where p.id = d.parent_id limit 1) is not null
        or (select true from {s}.workflow w where w.id = d.parent_id and not w.settled limit 1) is not null
        or (select true from {s}.dead_letter p
            where p.id = d.parent_id and p.ties::int & 16 > 0 limit 1) is not null)"""

# Look at the next live jobs of workflows older than an hour, in the order of job_live_workflow from a place on. `stuck`
# are those that count more edges than there are parents which may tell: one snapshot sees the end of a parent and the
# count of its children alike, so such a job waits for ever. A job that gets edges just now (`late`) is left.
# Ids of workflows rise with time, so the walk ends at the first young one. By primary keys and dependency_child.
_LOOK: LiteralString = fill(
    """looked as materialized (
    select j.id, j.workflow_id, j.waits_on, (j.waits_for = 'jobs') is true and j.cancel_requested_at is null as waits
    from {s}.job_live j
    where j.workflow_id is not null and (j.workflow_id, j.id) > (%(workflow)s::bigint, %(job)s::bigint)
    and {mine}
    order by j.workflow_id, j.id limit %(at_most)s::int
), old as materialized (
    select w.id from (select distinct workflow_id from looked) as l cross join lateral (
        select w.id from {s}.workflow w
        where w.id = l.workflow_id and w.created_at < now() - interval '1 hour' limit 1) as w
), stuck as materialized (
    select l.id, l.waits_on from looked l cross join lateral (
        select count(*) filter (where {may_tell}) as left_over, coalesce(bool_or(d.late), false) as late
        from {s}.dependency d where d.child_id = l.id) as e
    where l.waits and l.workflow_id in (select id from old) and l.waits_on > e.left_over and not e.late
)""",
    may_tell=_MAY_TELL,
)
# One worker walks, the living one with the lowest id: others would read the same rows.
_MINE: LiteralString = """%(worker)s::uuid = (
        select w.id from {s}.worker w where w.kind = 'worker' and w.lost_at is null and not w.stopping
        and w.heartbeat_at > now() - make_interval(secs => w.lease_seconds) order by w.id limit 1)"""

# Doom jobs that wait for what is gone, of the next `at_most`: CASCADE ends them. `waits_on` is compared once more, with
# the newest row. Jobs that somebody has locked are found by the next walk. Returns a row for each, and one with the
# last id that was looked at: null at the end of the walk.
DOOM_STUCK: LiteralString = fill(
    """
with {look}, held as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select id from stuck)) order by j.id for update skip locked
), doomed as (
    update {s}.job_live j set cancel_requested_at = now() from stuck
    where j.id = any(array[stuck.id]) and stuck.id in (select id from held) and (j.waits_for = 'jobs') is true
    and j.waits_on = stuck.waits_on and j.cancel_requested_at is null
    returning j.id, j.task::text, j.workflow_id, j.attempt, j.lease
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'blocked', 'blocked', attempt, lease, 'parent gone' from doomed
)
select id, task, workflow_id, false from doomed
union all
select l.id, null, l.workflow_id, true from (
    select * from looked order by workflow_id desc, id desc limit 1) as l
where (select count(*) from looked) = %(at_most)s::int and l.workflow_id in (select id from old)""",
    look=fill(_LOOK, mine=_MINE),
)

# Find such jobs, for `doctor`, among the first `at_most` live jobs of workflows.
FIND_STUCK: LiteralString = fill(
    """
with {look}
select s.id, j.task::text, j.workflow_id from stuck s cross join lateral (
    select j.task, j.workflow_id from {s}.job_live j where j.id = s.id limit 1) as j
order by s.id""",
    look=fill(_LOOK, mine="true"),
)

# The next workflows older than an hour that run with no member: none lives, none is a dead letter that may be redriven
# and go on, and no group within waits to be settled; an open one may still get members. Each end of a member is counted
# by the statement that makes it, so the rows of members were deleted. By workflow_living, job_live_workflow and
# dead_letter_workflow.
_EMPTY: LiteralString = """looked as materialized (
    select w.id, w.root_id, w.name, w.created_at, w.state, w.sealed from {s}.workflow w
    where not w.settled and w.created_at > %(after)s::timestamptz and w.created_at < now() - interval '1 hour'
    and {mine}
    order by w.created_at limit %(at_most)s::int
), hollow as materialized (
    select l.id, l.name, l.created_at from looked l
    where l.id = l.root_id and l.state = 'running' and l.sealed
    and (select true from {s}.job_live j where j.workflow_id = l.id and j.gate_id is not null limit 1) is null
    and (select true from {s}.dead_letter d where d.workflow_id = l.id and d.ties::int & 16 > 0 limit 1) is null
    and (select true from {s}.workflow w
         where w.root_id = l.id and w.root_id <> w.id and w.state <> 'running' and not w.settled limit 1) is null
)"""

# End workflows that run with no member: what their gates still count was cancelled, so to say. Of groups within, those
# end that have no other group in them; SETTLE moves what waits for them, and the groups above. Gates are locked before
# workflows, as everywhere; what has changed since is left. Returns a row for each workflow, and one with the time of
# the last that was looked at: null at the end of the walk.
END_HOLLOW: LiteralString = fill(
    """
with {empty}, whole as materialized (
    select h.id, h.id as root_id, w.gate_id, w.state, w.open_gates from hollow h join {s}.workflow w on w.id = h.id
    union all
    select w.id, w.root_id, w.gate_id, w.state, w.open_gates from hollow h cross join lateral (
        select w.* from {s}.workflow w where w.root_id = any(array[h.id]) and w.root_id <> w.id) as w
), gates_held as materialized (
    select g.id, g.workflow_id, g.remaining, w.root_id,
           (select count(*) from whole o where o.gate_id = g.id and o.state = 'running')::int as groups
    from {s}.gate g join whole w on w.id = g.workflow_id
    where g.workflow_id = any(array(select id from whole where state = 'running')) order by g.id + 0 for update of g
), gates_closed as (
    update {s}.gate g set remaining = h.groups, cancelled = g.cancelled + h.remaining - h.groups
    from gates_held h where g.id = any(array[h.id]) and h.remaining > h.groups
    returning g.workflow_id, g.remaining = 0 as closed, g.failed, g.cancelled
), told as materialized (
    select workflow_id as id, (count(*) filter (where closed))::int as gates, sum(failed)::int as failed,
           sum(cancelled)::int as cancelled
    from gates_closed where closed group by workflow_id
), workflows_held as materialized (
    select w.id from {s}.workflow w
    where w.id = any(array(select id from told)) and (select count(*) from gates_held) > 0
    order by w.id for no key update
), ended as (
    update {s}.workflow w
    set open_gates = w.open_gates - t.gates, failed = w.failed + t.failed, cancelled = w.cancelled + t.cancelled,
        state = case when w.open_gates > t.gates then w.state when w.failed + t.failed > 0 then 'failed'
                     else 'cancelled' end,
        ended_at = case when w.open_gates = t.gates then clock_timestamp() end,
        stop_reason = coalesce(w.stop_reason, 'jobs gone')
    from told t where w.id = any(array[t.id]) and w.state = 'running' and w.open_gates >= t.gates
    and (select count(*) from workflows_held) > 0
    returning w.id
)
select h.id, h.name, h.created_at, false from hollow h where h.id in (
    select w.root_id from whole w join ended e on e.id = w.id)
union all
select null, null, max(l.created_at), true from looked l having count(*) = %(at_most)s::int""",
    empty=fill(_EMPTY, mine=_MINE),
)

# Find such workflows, for `doctor`, among the oldest `at_most` that live.
FIND_HOLLOW: LiteralString = fill(
    """
with {empty} select h.id, h.name, h.created_at from hollow h order by h.created_at""",
    empty=fill(_EMPTY, mine="true"),
)

# Mark calls whose job has ended without saying so: a client or worker of a release that knows no calls has ended it, or
# somebody has deleted its row. DELIVER finds the mark and wakes the caller, which collects what became of the job. The
# statement that ends a job marks its call, so a snapshot that sees neither the job nor the mark sees an end that nobody
# told: no age is asked. A job that is brought back at this moment is marked though it lives: its caller finds it alive,
# sleeps on, and the next end marks the call again. The naive form, a timeout of the caller, gives up calls that go on.
# Walks over the open calls alone, in the order of call_open; jobs by primary key. Calls that somebody has locked are
# found by the next walk. Returns a row for each, and one with the last call that was looked at: null at the end of the
# walk.
TELL_GONE: LiteralString = fill(
    """
with looked as materialized (
    select c.number, c.child_id from {s}.call c
    where not c.ended and c.number >= %(number)s::bigint
    and (c.number, c.child_id) > (%(number)s::bigint, %(child)s::bigint) and {mine}
    order by c.number, c.child_id limit %(at_most)s::int
), gone as materialized (
    select c.child_id from {s}.call c
    where c.child_id = any(array(
        select l.child_id from looked l
        where (select true from {s}.job_live j where j.id = l.child_id limit 1) is null))
    and not c.ended order by c.child_id for update skip locked
), marked as (
    update {s}.call c set ended = true, seen = false
    where c.child_id = any(array(select child_id from gone)) returning c.child_id, c.job_id, c.step
)
select child_id, job_id, step, false from marked
union all
select l.number, l.child_id, null, true from (
    select * from looked order by number desc, child_id desc limit 1) as l
where (select count(*) from looked) = %(at_most)s::int""",
    mine=_MINE,
)


class StuckJob(NamedTuple):
    """A job that waits for what is gone."""

    id: int
    task: str
    workflow: int


class HollowWorkflow(NamedTuple):
    """A workflow that runs and has no member any more."""

    id: int
    name: str
    created_at: datetime


class GoneCall(NamedTuple):
    """A called job that has ended and told nobody, with its caller and the step that has called."""

    id: int
    caller: int
    step: str


class CallPlace(NamedTuple):
    """The last open call that a walk has looked at: the number of its step, and the job."""

    number: int = 0
    child: int = 0


class Place(NamedTuple):
    """The last live job of a workflow that a walk has looked at."""

    workflow: int = 0
    job: int = 0


Found = TypeVar("Found")
Walked: TypeAlias = tuple[list[Found], Row | None]


class GoneQueries(Statements):
    """Looking for what is gone. A walk is over where no place comes back."""

    def doom_stuck(self, worker: UUID, at_most: int, after: Place) -> Query[Walked[StuckJob]]:
        """Doom those of the next jobs that wait for what is gone, if this is the worker that does so; return them and
        the job and workflow that the walk has reached."""
        params = {"worker": worker, "at_most": at_most, **after._asdict()}
        return Query(self._sql(DOOM_STUCK), lambda rows: _walked(rows, StuckJob._make), params)

    def find_stuck(self, at_most: int) -> Query[list[StuckJob]]:
        """Find jobs that wait for what is gone, among the first live jobs of workflows."""
        params = {"at_most": at_most, **Place()._asdict()}
        return Query(self._sql(FIND_STUCK), lambda rows: [StuckJob(*row) for row in rows], params)

    def end_hollow(self, worker: UUID, at_most: int, after: datetime | None) -> Query[Walked[HollowWorkflow]]:
        """End those of the next workflows that have no member any more, likewise; return them and the time reached."""
        params = {"worker": worker, "at_most": at_most, "after": start_of(after)}
        return Query(self._sql(END_HOLLOW), lambda rows: _walked(rows, HollowWorkflow._make), params)

    def tell_gone(self, worker: UUID, at_most: int, after: CallPlace) -> Query[Walked[GoneCall]]:
        """Mark those of the next open calls whose job has ended and told nobody, likewise; return them and the call
        reached."""
        params = {"worker": worker, "at_most": at_most, **after._asdict()}
        return Query(self._sql(TELL_GONE), lambda rows: _walked(rows, GoneCall._make), params)

    def find_hollow(self, at_most: int) -> Query[list[HollowWorkflow]]:
        """Find workflows that have no member any more, among the oldest."""
        params = {"at_most": at_most, "after": start_of(None)}
        return Query(self._sql(FIND_HOLLOW), lambda rows: [HollowWorkflow(*row) for row in rows], params)


def _walked(rows: Sequence[Row], make: Callable[[Row], Found]) -> Walked[Found]:
    found = [make(row[:3]) for row in rows if not row[3]]
    return found, next((row[:3] for row in rows if row[3]), None)
