"""Signals to one job and events for all that wait for them: sent, delivered to jobs that wait, taken by a wait.

None is lost, because a job that waits does three things, each in a transaction: it records that it waits (RECORD); it
looks for what has been sent (TAKE); it is put to sleep (PUT_TO_SLEEP), unless its row says that something was sent
meanwhile. DELIVER takes what was sent and finds who waits. If its snapshot is older than the record, what it takes was
committed before the record, and the look sees it. Else it finds the wait, and changes the row of the job, which
PUT_TO_SLEEP changes too: whoever comes later sees what the other one wrote. The naive form, which looks and sleeps in
one statement and has a sender that wakes whom it sees, lost 85 of 100 in a race that was forced.
"""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple, TypeAlias

from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.step import RecordedStep
from pgqueue.queries.base import Query, Statements, fill, first_value, lines, packed
from pgqueue.queries.jobs.parts import MAY_NOTIFY
from pgqueue.queries.steps import HELD, STEP, in_order
from pgqueue.tasks.sealing import seal_value

# The payload with which signals and events notify workers on the schema's channel. No queue can have this name.
SIGNAL_PAYLOAD = "!signal"

# Put a signal into the mailbox of a job that waits or runs, in the caller's transaction. It locks nobody's row: an
# insert alone. A job that ends meanwhile never takes it, and it goes with the job. Returns null for a job that has
# ended or never was, and whether this role may look what became of it. By primary key.
SEND: LiteralString = fill(
    """
with sent as (
    insert into {s}.signal (job_id, name, data, at)
    select j.id, %(name)s::text, %(data)s::jsonb, clock_timestamp() from {s}.job_live j where j.id = %(job)s::bigint
    returning id
)
select (select id from sent), has_table_privilege(format('%%I.job', {channel}), 'select'),
    case when (select id from sent) is not null and {may_notify} then pg_notify({channel}, '!signal') end""",
    may_notify=MAY_NOTIFY,
)

# Keep an event for the jobs that wait for one with its name and key, now or within a week: an insert alone, in the
# caller's transaction.
SEND_EVENT: LiteralString = fill(
    """
with sent as (
    insert into {s}.awaited_event (name, key, data, at)
    values (%(name)s::text, %(key)s::text, %(data)s::jsonb, clock_timestamp()) returning id
)
select sent.id, case when {may_notify} then pg_notify({channel}, '!signal') end from sent""",
    may_notify=MAY_NOTIFY,
)

# Take what was sent and that nobody has looked at yet, and let the jobs go on that wait for it: one that is asleep is
# due now, one that still runs gets the mark `signalled`, which PUT_TO_SLEEP reads. A job that waits for its next
# attempt, or is due, looks by itself. Rows that another transaction holds are skipped: any number of workers may do
# this, and an open transaction that holds a job holds up no other. A letter one of whose jobs was skipped is taken
# again.
# The state is read in `set`, from the row as it is once it is locked: a job may have fallen asleep since this
# statement's snapshot. By the indexes of what is unseen, then by primary keys; the waits for events by
# step_waits_for_event, and by call_open whether a step waits for other calls: an end that sees others open leaves them
# to be delivered by those, which see this one. Returns how many jobs are due now, whether there may be more letters,
# whether any has to be taken again, whether called jobs are to be called off, and whether topics are incomplete.
DELIVER: LiteralString = fill(
    """
with mail as materialized (
    select g.id, g.job_id, g.name from {s}.signal g where not g.seen
    order by g.id limit %(at_most)s::int for update skip locked
), news as materialized (
    select e.id, e.name, e.key from {s}.awaited_event e where not e.seen
    order by e.id limit %(at_most)s::int for update skip locked
), over as materialized (
    select c.child_id, c.job_id, c.step, c.number from {s}.call c where c.ended and not c.seen
    order by c.child_id limit %(at_most)s::int for update skip locked
), wait as materialized (
    select m.id as letter, t.job_id from mail m
    cross join lateral (select j.id, j.state, j.signalled, j.attempt, j.run_at from {s}.job_live j
                        where j.id = m.job_id limit 1) as j
    cross join lateral (select t.job_id from {s}.step t where t.job_id = m.job_id and t.kind = 'signal' and not t.done
                        and t.waits = m.name limit 1) as t
    where {sleeps}
    union all
    select n.id, t.id from news n cross join lateral (
        select j.id from {s}.step t
        cross join lateral (select j.id, j.state, j.signalled, j.attempt, j.run_at from {s}.job_live j
                            where j.id = t.job_id limit 1) as j
        where t.kind = 'event' and not t.done and t.waits = n.name and t.wait_key = n.key and {sleeps}
        limit %(at_most)s::int + 1) as t
    union all
    select -o.child_id, t.job_id from over o
    cross join lateral (select j.id, j.state, j.signalled, j.attempt, j.run_at from {s}.job_live j
                        where j.id = o.job_id limit 1) as j
    cross join lateral (select t.job_id from {s}.step t where t.job_id = o.job_id and t.name = o.step
                        and t.number = o.number and not t.done limit 1) as t
    where {sleeps} and (select c.child_id from {s}.call c where c.number = o.number and not c.ended limit 1) is null
), locked as materialized (
    select j.id from {s}.job_live j where j.id = any(array(select job_id from wait))
    order by j.id limit %(at_most)s::int for update skip locked
), woken as (
    update {s}.job_live j
    set signalled = case when j.state = 'running' then true else j.signalled end,
        run_at = case when j.state = 'running' or j.attempt > 0 then j.run_at
                      else least(j.run_at::timestamptz, clock_timestamp()) end
    where j.id = any(array(select id from locked))
    returning j.queue::text, j.state = 'pending' as due, j.state = 'blocked' as in_turn
), again as materialized (
    select w.letter from wait w where w.job_id not in (select id from locked)
), seen as (
    update {s}.signal g set seen = true
    where g.id = any(array(select m.id from mail m where m.id not in (select letter from again)))
), seen_events as (
    update {s}.awaited_event e set seen = true
    where e.id = any(array(select n.id from news n where n.id not in (select letter from again)))
), seen_calls as (
    update {s}.call c set seen = true
    where c.child_id = any(array(select o.child_id from over o where -o.child_id not in (select letter from again)))
), notified as (
    select count(pg_notify({channel}, q.queue)) from (select distinct w.queue from woken w where w.due) as q
    where exists (select from {s}.worker w where w.waiting and q.queue = any(w.queues)) and {may_notify}
)
select (select count(*) from woken where due or in_turn),
       greatest((select count(*) from mail), (select count(*) from news), (select count(*) from over)),
       (select count(*) from again), (select u.child_id from {s}.unwanted_call u limit 1) is not null,
       (select a.name from {s}.awaited_topic a where not a.complete limit 1) is not null,
       (select count from notified)""",
    sleeps="""case when j.state = 'running' then j.signalled is not true
          else j.attempt = 0 and j.run_at::timestamptz > now() end""",
    may_notify=MAY_NOTIFY,
)

# Let waits of running jobs take what was sent to them: the oldest signal of that name, which is deleted, or the oldest
# event of that name and key since the job was enqueued that it has not had. Where there is none and the time is over,
# the timeout is recorded; it stays, and a signal that comes later stays in the mailbox for the next wait. All under the
# lease, in one statement: what is taken is recorded, and only that. A wait that is over already is returned as it is
# recorded, and takes nothing. Nothing comes back for a job that has lost its lease.
# Locks the jobs first, then signals; DELIVER takes them the other way round and waits for none. By primary keys, by
# signal_job and awaited_event_key.
TAKE: LiteralString = fill(
    r"""
with given as materialized (
    select g.* from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]), (select string_to_array(%(names)s, E'\n'))
    ) with ordinality as g(job_id, lease, name, ord)
), {held}, open as materialized (
    select g.ord, t.*, held.created_at from given g join held on held.id = g.job_id
    cross join lateral (select * from {s}.step where job_id = g.job_id and name = g.name limit 1) as t
), found as materialized (
    select o.ord, o.job_id, o.name, g.id, g.data, true as mailed from open o
    cross join lateral (select g.id, g.data from {s}.signal g where g.job_id = o.job_id and g.name = o.waits
                        order by g.id limit 1) as g
    where o.kind = 'signal' and not o.done
    union all
    select o.ord, o.job_id, o.name, e.id, e.data, false from open o
    cross join lateral (
        select e.id, e.data from {s}.awaited_event e
        where e.name = o.waits and e.key = o.wait_key and e.at >= o.created_at::timestamptz
        and not exists (select from {s}.step t where t.job_id = o.job_id and t.event_id = e.id)
        order by e.at, e.id limit 1) as e
    where o.kind = 'event' and not o.done
), taken as (
    delete from {s}.signal g using found f where f.mailed and g.id = any(array[f.id])
), written as (
    update {s}.step t
    set done = true, timed_out = f.id is null, value = f.data, event_id = case when not f.mailed then f.id end
    from open o left join found f on f.ord = o.ord
    where t.job_id = any(array[o.job_id]) and t.name = o.name and not t.done
    and (f.id is not null or o.wake_at <= clock_timestamp())
    returning o.ord, t.*
)
select t.ord, {step} from written t
union all
select t.ord, {step} from open t where t.ord not in (select ord from written)""",
    held=HELD,
    step=STEP,
)

# List the topics whose earlier events are not there yet for those who wait. By awaited_topic_incomplete.
INCOMPLETE_TOPICS: LiteralString = (
    "select a.name from {s}.awaited_topic a where not a.complete order by a.name limit 50"
)

# Copy the events of topics that were published before any job waited for one of them, and call the topics complete. The
# caller has seen that every transaction has ended that may have published without having seen the rows of the topics:
# so each event of a week was either told by whoever published it, or is copied here, and never both. Once in the life
# of a topic it reads the events of a week. Any number of workers may do it: the row of the topic is locked, and
# skipped by others.
COMPLETE_TOPICS: LiteralString = fill(
    """
with topic as materialized (
    select a.name from {s}.awaited_topic a where a.name = any(%(names)s::text[]) and not a.complete
    order by a.name for update skip locked
), copied as (
    insert into {s}.awaited_event (name, key, data, at, published_id)
    select e.topic, e.key, e.data, e.at, e.id from topic
    join {s}.published_event e on e.topic = topic.name
    where e.key is not null and e.at > now() - interval '7 days'
    and not exists (select from {s}.awaited_event a
                    where a.name = e.topic and a.key = e.key and a.published_id = e.id)
    order by e.id
    returning id
), completed as (
    update {s}.awaited_topic a set complete = true where a.name = any(array(select name from topic)) returning a.name
)
select (select count(*) from completed), (select count(*) from copied)""",
)

Asked: TypeAlias = tuple[ClaimedJob, str]  # a job, and the name of the step that waits


class Delivery(NamedTuple):
    """What a delivery did: `due` jobs go on, so many `letters` of the most frequent kind were taken, `again` of their
    waits have to be tried again. `unwanted`: whether called jobs are to be called off. `incomplete`: whether a job
    waits for a topic whose earlier events are not there yet."""

    due: int
    letters: int
    again: int
    unwanted: bool
    incomplete: bool


class SignalQueries(Statements):
    """Signals and events for jobs that wait."""

    def send(self, job: int, name: str, data: str) -> Query[tuple[int | None, bool]]:
        """Send a signal to a job; returns its id, None if the job has ended or never was, and whether jobs may be
        read."""
        params = {"job": job, "name": name, "data": self._text("signal", name, data)}
        return Query(self._sql(SEND), lambda rows: (rows[0][0], rows[0][1]), params)

    def send_event(self, name: str, key: str, data: str) -> Query[int]:
        """Tell all jobs that wait for an event of this name and key, now or within a week; returns its id."""
        params = {"name": name, "key": key, "data": self._text("event", name, data)}
        return Query(self._sql(SEND_EVENT), first_value, params)

    def deliver(self, at_most: int) -> Query[Delivery]:
        """Let the jobs go on for which something was sent."""
        return Query(self._sql(DELIVER), lambda rows: Delivery(*rows[0][:5]), {"at_most": at_most})

    def incomplete_topics(self) -> Query[list[str]]:
        """List topics whose earlier events are not there yet for those who wait."""
        return Query(self._sql(INCOMPLETE_TOPICS), lambda rows: [row[0] for row in rows])

    def complete_topics(self, names: Sequence[str]) -> Query[int]:
        """Let those who wait for these topics find what was published before; returns how many topics are complete."""
        return Query(self._sql(COMPLETE_TOPICS), first_value, {"names": list(names)})

    def take(self, waits: Sequence[Asked]) -> Query[list[RecordedStep | None]]:
        """Let waits take what was sent; returns each as it is recorded then, None where the lease is lost."""
        params = {
            "ids": packed(job.id for job, _ in waits),
            "leases": packed(job.lease for job, _ in waits),
            "names": lines(name for _, name in waits),
        }
        return Query(self._sql(TAKE), lambda rows: in_order(rows, len(waits)), params)

    def _text(self, kind: str, name: str, text: str) -> str:
        """Return JSON text as it is stored: sealed, if there is a codec."""
        return text if self.codec is None else seal_value(self.codec, kind, name, text)
