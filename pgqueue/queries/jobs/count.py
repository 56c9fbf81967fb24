"""Counting jobs: in a queue with a `max_depth`, and for operators."""

from dataclasses import dataclass, replace
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, fill, first_value, nothing
from pgqueue.queries.jobs.parts import LANES, PAUSED
from pgqueue.queries.jobs.turns import WAITS
from pgqueue.queries.jobs.waiting import TURN_ORDER, TURN_QUEUES

MOST_COUNTED = 10_000
MOST_TOGETHER = 50_000  # over all queues

# A job that was set aside, because its task is paused.
_ASIDE: LiteralString = "j.state = 'blocked' and j.waits_for = 'pause'"

# Count the jobs that wait in a queue, due or not, up to `limit` + 1. The statement reads lane by lane in the order of
# job_live_ready, as CLAIM does. The plain form, without an order, reads the whole table where the statistics say that
# the queue fills much of it; with an order it sorts the whole queue where there are no statistics. Metered jobs are
# counted in the order of job_live_turn, whatever their lanes, and those that were set aside in that of
# job_live_paused_queue.
DEPTH: LiteralString = fill(
    """
with recursive lane(priority) as (
    (select j.priority::smallint from {s}.job_live j
     where j.state = 'pending' and j.queue::text = %(queue)s::text
     order by j.priority desc limit 1)
    union all
    select (select j.priority::smallint from {s}.job_live j
            where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint < lane.priority
            order by j.priority desc limit 1)
    from lane where lane.priority is not null
)
select count(*) from (
    (select from lane cross join lateral (
        select from {s}.job_live j
        where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint = lane.priority
        order by j.run_at, j.id limit %(limit)s + 1) as waiting
     limit %(limit)s + 1)
    union all
    (select from {s}.job_live j where {waits} and j.queue::text = %(queue)s::text
     order by j.queue, j.lane, j.priority desc limit %(limit)s + 1)
    union all
    (select from {s}.job_live j where {aside} and j.queue::text = %(queue)s::text
     order by j.queue, (j.id %% 64::bigint) limit %(limit)s + 1)
    limit %(limit)s + 1) as counted""",
    waits=WAITS,
    aside=_ASIDE,
)

# Estimate the same of a deep queue from one job in 64 (job_live_sample, job_live_turn_sample, job_live_paused_queue). A
# counter would be exact, but all enqueues would wait for its row; to count all entries takes tens of milliseconds for
# a hundred thousand.
SAMPLED_DEPTH: LiteralString = fill(
    """
select 64 * count(*) from (
    (select from {s}.job_live j
     where j.state = 'pending' and j.queue::text = %(queue)s::text and j.id %% 64::bigint = 0
     limit %(limit)s / 64 + 1)
    union all
    (select from {s}.job_live j
     where {waits} and j.queue::text = %(queue)s::text and j.id %% 64::bigint = 0 limit %(limit)s / 64 + 1)
    union all
    (select from {s}.job_live j
     where {aside} and j.queue::text = %(queue)s::text and j.id %% 64::bigint = 0 limit %(limit)s / 64 + 1)
    limit %(limit)s / 64 + 1) as w""",
    waits=WAITS,
    aside=_ASIDE,
)

EXACT_DEPTH = 10_000

# Make the rest of a transaction read in the order of an index, also where the statistics do not know the newest rows.
# Otherwise the planner reads and sorts whole lanes to count the first rows of them. Before Postgres 18 a scan that
# cannot be avoided then has a cost at which the server compiles the statement, which takes longer than to run it.
PREFER_INDEXES: LiteralString = """
select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('jit', 'off', true)"""

# Whether worker `w` serves a queue, by its name or by a pattern such as `tenant-*`.
SERVES: LiteralString = """({queue} = any(w.queues) or exists (select from unnest(w.queues) as g
        where {queue} like replace(replace(g, '_', '!_'), '*', '%%') escape '!'))"""

# Count the due jobs of a queue in the order of its lanes, or those of later, up to a bound and one more: from
# job_live_ready alone.
_WAITING: LiteralString = """(select count(*) from (
select from lane cross join lateral (select from waiting j
where j.queue = lane.queue and j.priority = lane.priority and j.run_at {when} now()
order by j.run_at, j.id limit s.most + 1) as first
where lane.queue = s.queue limit s.most + 1) as n)"""

# Count those of them that have run before, by job_live_retrying.
_AGAIN: LiteralString = """(select count(*) from (
select from waiting j where j.attempt > 0 and j.queue = s.queue and j.run_at {when} now()
order by j.run_at, j.id limit s.most + 1) as n)"""

# Count jobs by queue and phase, for operators and for monitoring that runs on a timer. Of each kind the statement looks
# at `most` rows and one more; of many queues at fewer of each, some `together` in all. So it costs the same on any
# backlog. One more than the bound means "more than that". With null for `most` it counts to the end.
# A lane is a queue and a priority: `lane` hops along job_live_ready from one to the next, and in each lane the due rows
# and the future ones are two ranges. That index does not have the attempt, and to fetch ten thousand rows of each queue
# for it takes most of the time: so those that wait for another attempt are counted by an index of their own, and taken
# off. Running rows come from job_live_running, parked ones from job_live_parked, those of paused tasks from
# job_live_paused, the newest dead letters from dead_letter_failed_at; those kinds are cut off over all queues together.
# The naive form, one `group by` over job_live, takes a second on a backlog of a million.
COUNT: LiteralString = fill(
    """
with recursive {lanes}, served as (
    select queue, case when %(most)s::int > 0
        then least(%(most)s::int, greatest(100, %(together)s::int / count(*) over ()::int) - 1) end as most
    from (select distinct queue from lane) as named
), waits as materialized (
    select s.queue, s.most, {due} as due, {due_again} as due_again, {later} as later, {later_again} as later_again
    from served s
), others as (
    select queue, count(*) filter (where kind = 1) as running, count(*) filter (where kind = 2) as blocked,
        count(*) filter (where kind = 3) as dead
    from (
(select queue::text, 1 as kind from {s}.job_live where worker_id is not null
order by worker_id limit %(most)s::int + 1)
union all
(select queue::text, 2 from {s}.job_live where state = 'blocked' and waits_for = 'task'
order by task limit %(most)s::int + 1)
union all
(select queue::text, 2 from {s}.job_live where state = 'blocked' and waits_for = 'pause'
order by task limit %(most)s::int + 1)
union all
(select queue::text, 3 from {s}.dead_letter order by failed_at desc limit %(most)s::int + 1)
) as other group by queue
)
select queue, coalesce(due - due_again, 0), coalesce(later - later_again, 0), coalesce(due_again + later_again, 0),
    coalesce(running, 0), coalesce(blocked, 0), coalesce(dead, 0),
    (select extract(epoch from now() - min(oldest.run_at))::float8 from lane cross join lateral (
    select j.run_at from waiting j
    where j.queue = lane.queue and j.priority = lane.priority and j.run_at <= now()
    order by j.run_at limit 1) as oldest
    where lane.queue = found.queue),
    (select count(*) from {s}.worker_health w where w.status = 'alive' and {served_found}),
    exists (select from {s}.paused p where p.kind = 'queue' and p.name = found.queue),
    array_remove(array[
    case when due > most then 'pending' end,
    case when later > most then 'scheduled' end,
    case when due_again > most or later_again > most then 'retrying' end,
    case when sum(running) over () > %(most)s::numeric then 'running' end,
    case when sum(blocked) over () > %(most)s::numeric then 'blocked' end,
    case when sum(dead) over () > %(most)s::numeric then 'dead' end], null)
from (waits full join others using (queue)) as found order by queue""",
    due=fill(_WAITING, when="<="),
    later=fill(_WAITING, when=">"),
    due_again=fill(_AGAIN, when="<="),
    later_again=fill(_AGAIN, when=">"),
    served_found=fill(SERVES, queue="found.queue"),
    lanes=LANES,
)

# Count the metered jobs that wait, by queue and phase, with what COUNT tells of a queue: it may hold no others. Of each
# queue the statement looks at the first jobs in the order of job_live_turn, whatever their lanes, for there may be as
# many lanes as jobs; up to a bound and one more, as COUNT does. Where there are more, there may be more of each phase.
COUNT_TURNS: LiteralString = fill(
    """
with recursive {turn_queues}, served as materialized (
    select queue, case when %(most)s::int > 0
        then least(%(most)s::int, greatest(100, %(together)s::int / count(*) over ()::int) - 1) end as most
    from turning where queue is not null
)
select s.queue, counted.due, counted.later, counted.again, coalesce(counted.jobs > s.most, false),
    (select count(*) from {s}.worker_health w where w.status = 'alive' and {served}),
    exists (select from {s}.queue q where q.name = s.queue and {paused})
from served s cross join lateral (
    select count(*) as jobs, count(*) filter (where w.attempt = 0 and w.run_at <= now()) as due,
           count(*) filter (where w.attempt = 0 and w.run_at > now()) as later,
           count(*) filter (where w.attempt > 0) as again
    from (select j.run_at::timestamptz as run_at, j.attempt from {s}.job_live j
          where {waits} and j.queue::text = s.queue order by {turn_order} limit s.most + 1) as w
) as counted""",
    turn_queues=TURN_QUEUES,
    turn_order=TURN_ORDER,
    waits=WAITS,
    served=fill(SERVES, queue="s.queue"),
    paused=PAUSED,
)

# Count the jobs that ended within the last hour, among the newest `most` of each table: by primary key and by
# dead_letter_failed_at. No index has finished_at. A job that waited for long and ended lately has an old id, and may be
# missed where there are more than `most`.
COUNT_FINISHED: LiteralString = """
select state, count(*), coalesce(sum(count(*)) over () > %(most)s::numeric, false)
from (select state, finished_at from {s}.job_finished order by id desc limit %(most)s::int + 1) as newest
where finished_at > now() - interval '1 hour' group by state
union all
select 'failed', count(*), coalesce(count(*) > %(most)s::int, false) from (
    select from {s}.dead_letter where failed_at > now() - interval '1 hour'
    order by failed_at desc limit %(most)s::int + 1) as newest
having count(*) > 0"""

# Count the dead letters of the last hour by queue: the newest `most` and one more, by dead_letter_failed_at.
COUNT_DEAD: LiteralString = """
select queue, count(*), coalesce(sum(count(*)) over () > %(most)s::numeric, false) from (
    select queue from {s}.dead_letter where failed_at > now() - interval '1 hour'
    order by failed_at desc limit %(most)s::int + 1) as newest
group by queue order by queue"""

# Count parked jobs, which wait for a worker that knows their task in their version, and tell whether such a worker is
# alive. The statement hops along job_live_parked from one task, version and queue to the next, and counts at most
# `most` and one more of each.
COUNT_PARKED: LiteralString = fill(
    """
with recursive parked(task, version, queue) as (
    (select j.task::text, coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue::text from {s}.job_live j
     where j.state = 'blocked' and j.waits_for = 'task'
     order by j.task, coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue limit 1)
    union all
    select following.task, following.version, following.queue from parked cross join lateral (
        select j.task::text, coalesce(j.headers::jsonb ->> '$version'::text, '1') as version, j.queue::text
        from {s}.job_live j where j.state = 'blocked' and j.waits_for = 'task'
        and (j.task::text, coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue::text)
            > (parked.task, parked.version, parked.queue)
        order by j.task, coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue limit 1) as following
)
select p.task, p.queue, few.jobs,
       exists (select from {s}.worker w
               where w.lost_at is null and w.heartbeat_at > now() - w.lease_seconds * interval '1 s'
               and {served_parked}
               and case p.version when '1' then p.task else p.task || '@' || p.version end = any(w.tasks)),
       coalesce(few.jobs > %(most)s::int, false), p.version
from parked p cross join lateral (
    select count(*) as jobs from (
        select from {s}.job_live j where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = p.task
        and coalesce(j.headers::jsonb ->> '$version'::text, '1') = p.version and j.queue::text = p.queue
        limit %(most)s::int + 1) as counted
) as few order by p.task, p.version, p.queue""",
    served_parked=fill(SERVES, queue="p.queue"),
)


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many jobs a queue holds, by phase; for how many seconds the oldest due one has waited; and how many living
    workers serve it. `at_least`: the phases of which it holds more than was counted. `turn`: metered jobs that are due,
    and wait for their turn; `with_turns` adds them, and counts those of later as scheduled or retrying. `sleeping` and
    `waiting`: jobs that are asleep; `with_waiting` takes them off the scheduled ones."""

    queue: str
    pending: int
    scheduled: int
    retrying: int
    running: int
    blocked: int
    dead: int
    oldest_due_seconds: float | None
    workers: int
    paused: bool
    at_least: list[str]
    turn: int = 0
    sleeping: int = 0
    waiting: int = 0


class TurnCounts(NamedTuple):
    """How many metered jobs of a queue wait: for their turn, for a later time, for another attempt. `at_least`: there
    are more than were counted. The rest is as in QueueCounts."""

    queue: str
    turn: int
    scheduled: int
    retrying: int
    at_least: bool
    workers: int
    paused: bool


def with_turns(counts: list[QueueCounts], turns: list[TurnCounts]) -> list[QueueCounts]:
    """Return what queues hold, with the metered jobs that wait there; by the names of the queues."""
    found = {count.queue: count for count in counts}
    for turn in turns:
        plain = found.get(turn.queue) or QueueCounts(
            turn.queue, 0, 0, 0, 0, 0, 0, None, turn.workers, turn.paused, at_least=[]
        )
        more = ["scheduled", "retrying", "turn"] if turn.at_least else []
        found[turn.queue] = replace(
            plain,
            scheduled=plain.scheduled + turn.scheduled,
            retrying=plain.retrying + turn.retrying,
            turn=turn.turn,
            at_least=[*plain.at_least, *(phase for phase in more if phase not in plain.at_least)],
        )
    return [found[queue] for queue in sorted(found)]


class FinishedCount(NamedTuple):
    """How many jobs ended in a state; `at_least` if there may be more than was counted."""

    state: str
    jobs: int
    at_least: bool


class DeadCount(NamedTuple):
    """How many jobs of a queue became dead letters within the last hour; `at_least` if there may be more."""

    queue: str
    jobs: int
    at_least: bool


@dataclass(frozen=True, slots=True)
class ParkedJobs:
    """Jobs parked because a worker did not know their task in their version, and whether a living worker knows it and
    will take them."""

    task: str
    queue: str
    jobs: int
    known_to_a_worker: bool
    at_least: bool
    version: str


class CountQueries(Statements):
    """Counting jobs."""

    def depth(self, queue: str, limit: int) -> Query[int]:
        """Count the jobs that wait in a queue: exactly up to EXACT_DEPTH, and not much further than `limit`."""
        template = DEPTH if limit <= EXACT_DEPTH else SAMPLED_DEPTH
        return Query(self._sql(template), first_value, {"queue": queue, "limit": limit})

    def prefer_indexes(self) -> Query[None]:
        """Let the rest of this transaction stop once it has counted enough, whatever the statistics say."""
        return Query(self._sql(PREFER_INDEXES), nothing)

    def count(self, most: int | None = MOST_COUNTED) -> Query[list[QueueCounts]]:
        """Count jobs by queue and phase: of each up to `most` and one more, of many queues fewer; for None all."""
        params = {"most": most, "together": MOST_TOGETHER}
        return Query(self._sql(COUNT), lambda rows: [QueueCounts(*row) for row in rows], params)

    def count_turns(self, most: int | None = MOST_COUNTED) -> Query[list[TurnCounts]]:
        """Count the metered jobs that wait, by queue and phase: of each queue up to `most` and one more, or all."""
        params = {"most": most, "together": MOST_TOGETHER}
        return Query(self._sql(COUNT_TURNS), lambda rows: [TurnCounts(*row) for row in rows], params)

    def count_finished(self, most: int | None = MOST_COUNTED) -> Query[list[FinishedCount]]:
        """Count the jobs that ended within the last hour, by state, among the newest `most`."""
        return Query(self._sql(COUNT_FINISHED), lambda rows: [FinishedCount(*row) for row in rows], {"most": most})

    def count_dead(self, most: int | None = MOST_COUNTED) -> Query[list[DeadCount]]:
        """Count the dead letters of the last hour, by queue, among the newest `most`."""
        return Query(self._sql(COUNT_DEAD), lambda rows: [DeadCount(*row) for row in rows], {"most": most})

    def count_parked(self, most: int | None = MOST_COUNTED) -> Query[list[ParkedJobs]]:
        """Count parked jobs by task, version and queue: of each up to `most` and one more, or all of them for None."""
        return Query(self._sql(COUNT_PARKED), lambda rows: [ParkedJobs(*row) for row in rows], {"most": most})
