"""Workflows, waits and letters, as far as the doctor asks."""

from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements

# Name the oldest workflows that keep finished jobs which retention would drop by now, as the view `old_partition` has
# it: since when, how many such partitions, and of one that has ended a job that lives. By workflow_living; those that
# have ended by a walk from workflow to workflow on job_live_workflow. The partitions come from the catalogue.
HOLDING: LiteralString = """
with recursive keep as (
    select case when bool_and(r.value is not null) then max(r.value) end as age
    from {s}.retention r where r.name in ('succeeded', 'cancelled')
), part as materialized (
    select s.last_day::timestamp at time zone 'UTC' as past from {s}.partition_status s
    where s.history = 'job_finished' and not s.is_default
), held(id, job) as (
    (select j.workflow_id, j.id from {s}.job_live j
     where j.workflow_id is not null order by j.workflow_id, j.id limit 1)
    union all
    select n.* from held h cross join lateral (
        select j.workflow_id, j.id from {s}.job_live j
        where j.workflow_id > h.id order by j.workflow_id, j.id limit 1) as n
)
select w.id, w.name, w.created_at, held.parts, w.job from (
    (select w.id, w.name, w.created_at, null::bigint as job from {s}.workflow w
     where not w.settled and w.root_id = w.id and w.created_at < now() - (select age from keep)
     order by w.created_at limit 10)
    union all
    (select w.*, h.job from held h cross join lateral (
        select w.id, w.name, w.created_at from {s}.workflow w
        where w.id = h.id and w.settled and w.created_at < now() - (select age from keep) limit 1) as w
     order by w.created_at limit 10)) as w
cross join lateral (
    select count(*) as parts from part p
    where p.past + interval '1 day' <= now() - (select age from keep) and p.past + interval '2 days' > w.created_at
) as held
where held.parts > 0 order by w.created_at limit 10"""

# Tell since when signals and events wait to be delivered. By signal_unseen and awaited_event_unseen: ids rise
# with time.
UNSENT: LiteralString = """
select (select g.at from {s}.signal g where not g.seen order by g.id limit 1),
       (select e.at from {s}.awaited_event e where not e.seen order by e.id limit 1)"""

# Find jobs whose wait has no timeout and goes on for so many seconds, among the oldest 10,000 steps. By the primary
# keys of step and job_live.
ENDLESS: LiteralString = """
select t.job_id, t.kind, t.waits, t.wait_key, t.at
from (select * from {s}.step s order by s.job_id, s.name limit 10000) as t
where not t.done and t.waits is not null and t.wake_at is null and t.at < now() - make_interval(secs => %(age)s::float8)
and (select true from {s}.job_live j where j.id = t.job_id limit 1) is not null
order by t.job_id limit 50"""


# Name the oldest open workflows that live for so many seconds while no member does, and that no dead letter holds, of
# the oldest 10,000 workflows and groups that live. By workflow_living, job_live_workflow and dead_letter_workflow. When
# somebody last added to one is written nowhere, so one that gets a job once a day is among them between two.
LEFT_OPEN: LiteralString = """
with living as materialized (
    select w.id, w.root_id, w.name, w.created_at, w.state, w.sealed from {s}.workflow w
    where not w.settled and w.created_at < now() - make_interval(secs => %(age)s::float8)
    order by w.created_at limit 10000
), empty as (
    select l.id, l.name, l.created_at from living l
    where l.id = l.root_id and l.state = 'running' and not l.sealed
    and (select true from {s}.job_live j where j.workflow_id = l.id limit 1) is null
    and (select true from {s}.dead_letter d where d.workflow_id = l.id and d.ties::int & 16 > 0 limit 1) is null
    order by l.created_at limit 50
)
select e.id, e.name, e.created_at, w.jobs from empty e
cross join lateral (select w.jobs from {s}.workflows w where w.id = e.id limit 1) as w order by e.created_at"""


class Holding(NamedTuple):
    """A workflow that keeps partitions from being dropped. `job`: one that lives, of a workflow that has ended."""

    id: int
    name: str
    created_at: datetime
    partitions: int
    job: int | None


class LeftOpen(NamedTuple):
    """An open workflow of which no member lives, and how many jobs it has had."""

    id: int
    name: str
    created_at: datetime
    jobs: int


class Endless(NamedTuple):
    """A wait without a timeout: for which signal or event."""

    job: int
    kind: str
    name: str
    key: str | None
    since: datetime


class WorkflowLooks(Statements):
    """Workflows, waits and letters."""

    def holding(self) -> Query[list[Holding]]:
        """Name the workflows that keep old partitions."""
        return Query(self._sql(HOLDING), lambda rows: [Holding(*row) for row in rows])

    def left_open(self, age: float) -> Query[list[LeftOpen]]:
        """Name open workflows that live for so many seconds while no member does."""
        return Query(self._sql(LEFT_OPEN), lambda rows: [LeftOpen(*row) for row in rows], {"age": age})

    def unsent(self) -> Query[tuple[datetime | None, datetime | None]]:
        """Tell since when the oldest signal, and the oldest event, waits to be delivered."""
        return Query(self._sql(UNSENT), lambda rows: (rows[0][0], rows[0][1]))

    def endless(self, age: float) -> Query[list[Endless]]:
        """Find waits without a timeout that go on for so many seconds."""
        return Query(self._sql(ENDLESS), lambda rows: [Endless(*row) for row in rows], {"age": age})
