"""Claiming jobs: taking them for one attempt."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple, TypeAlias
from uuid import UUID

from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.base import Query, Row, Statements, fill
from pgqueue.queries.jobs.parts import NOT_PAUSED, PAUSED, PAUSED_TASKS, TASK_PAUSED

# Move the jobs that a claim has picked to running: charge the attempt, raise the lease, log the move. Reads
# `picked(id, state)`.
# The attempt is counted here and not at its end, so that a job that kills its worker each time still runs out of
# attempts. `picked` holds row locks, and Postgres never inlines a CTE with FOR UPDATE, so the update cannot touch more
# rows than were picked. It checks the state again nevertheless. Only a claim gives up the unique key of a job that was
# to be the only one until it starts.
# By primary key, in one scan with an array. A join with `picked` leaves the planner a choice: depending on how many
# rows it expects, it reads the whole table, or probes the key for each row; with the array as a second condition it
# takes the array apart for each row (30 µs a job instead of 10), and after each VACUUM it may choose otherwise. The
# state is not a constant: with a constant the planner may use a partial index, and a long transaction keeps dead
# entries there.
# `least`: only SQL can have written a larger lease, and one such row must not make the claims of its whole queue fail.
MOVED: LiteralString = """moved as (
    update {s}.job_live j
    set state = 'running', waits_for = null, progress = null, attempt = j.attempt + 1,
        lease = least(j.lease, 4611686018427387903) + 1, worker_id = %(worker)s, claimed_at = now(),
        unique_key = case when j.unique_live then j.unique_key end
    where j.id = any(array(select id from picked)) and j.state = (select state from picked limit 1)
    returning j.id, j.task, j.queue, j.priority, j.args, j.tags, j.headers, j.run_at, j.created_at, j.attempt,
        j.max_attempts, j.lease, j.history, j.lane, j.ties
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, worker_id)
    select id, (select state from picked limit 1), 'running', attempt, lease, %(worker)s from moved where history
)"""
# The columns of a claimed job. Reads `moved`.
CLAIMED: LiteralString = """id, task, queue, priority, args::text, case when cardinality(tags) > 0 then tags end,
       nullif(headers::jsonb, '{{}}')::text, run_at, created_at, attempt, max_attempts, lease,
       date_part('epoch'::text, now() - run_at::timestamptz), lane, ties"""
MOVE_PICKED: LiteralString = fill(
    """{moved}
select {claimed}
from moved""",
    moved=MOVED,
    claimed=CLAIMED,
)

# The queues that a worker serves, in its order, each with how many jobs it may give. Paused queues give nothing. A
# worker that was declared lost gets nothing: its jobs would be taken from it at once.
# A queue may give two portions: its part of the room, and, after the others gave theirs, what they have left. The
# second one skips the rows of the first one, for a transaction may lock a row twice: `for update skip locked` skips
# only rows of others. Should another transaction give a row free between the two, the second portion has a row of the
# first one, and the claim brings one job less.
# The subselects hide the values of the parameters from the planner, which would otherwise plan each claim anew, for a
# third of a millisecond.
SERVED_QUEUES: LiteralString = fill(
    """(
        select u.name, u.room, u.skip
        from unnest((select %(queues)s::text[]), (select %(rooms)s::int[]), (select %(skips)s::int[]))
             with ordinality as u(name, room, skip, ord)
        where not exists (select from {s}.queue q where q.name = u.name and {paused})
        and not exists (select from {s}.worker w where w.id = (select %(worker)s::uuid) and w.lost_at is not null)
        order by u.ord
    ) as served""",
    paused=PAUSED,
)

# The due jobs of each `lane`, from a place on, locked. SKIP LOCKED: two workers never wait for each other and never get
# the same row. A job that has expired is passed over until EXPIRE cancels it: the row is at hand anyway, and to claim
# it and give it back as cancelled would charge an attempt that never was. Jobs of a paused task are passed over, too:
# SET_ASIDE takes them out of the index, so that no claim walks far over them.
_READY_JOBS: LiteralString = fill(
    """cross join lateral (
            select j.id from {s}.job_live j
            where j.state = 'pending' and j.queue::text = served.name and j.priority::smallint = lane.priority
            and j.run_at::timestamptz <= now() and (j.run_at::timestamptz, j.id) > (lane.run_at, lane.id)
            and (j.expires_at is null or j.expires_at > now() or j.attempt > 0)
            and {not_paused}
            order by j.run_at, j.id limit (select %(room)s::int) for update skip locked
        ) as ready""",
    not_paused=NOT_PAUSED,
)

# Claim up to `room` due jobs: queues in the order given, higher priority first, then by run_at and id.
# A lane is a queue and a priority, and the statement reads each lane in exact index order (job_live_ready). The obvious
# form, `queue = any(…) order by priority desc, run_at, id limit n`, sorts the whole backlog: 1,222 ms against 0.5 ms on
# 2 million rows. The other one, `where id in (select … limit n for update skip locked)`, can run its subquery again for
# each row outside and take more than n.
# A queue gives at most its own room (how many more jobs of it this worker may run, or its part of them). The outer
# limits stop the nested loops, so that no row is locked that is not taken.
# `hop` finds the priorities that exist, from one to the next in the index, and each lane is read from its beginning. So
# this is the full scan, which misses nothing. Jobs that were claimed lately lie at the beginning as dead entries until
# VACUUM may remove them, which a long transaction prevents: then the statement walks over all of them, and 25,000 jobs
# a second became 4,285.
CLAIM: LiteralString = fill(
    """
with picked as materialized (
    select found.id, 'pending' as state
    from {served_queues}
    cross join lateral (
        with recursive hop(priority) as (
            (select j.priority::smallint from {s}.job_live j where j.state = 'pending' and j.queue::text = served.name
             order by j.priority desc limit 1)
            union all
            select (select j.priority::smallint from {s}.job_live j
                    where j.state = 'pending' and j.queue::text = served.name and j.priority::smallint < hop.priority
                    order by j.priority desc limit 1)
            from hop where hop.priority is not null
        )
        select ready.id
        from (select hop.priority, '-infinity'::timestamptz as run_at, 0::bigint as id
              from hop where hop.priority is not null order by hop.priority desc) as lane
        {ready_jobs}
        limit served.room offset served.skip
    ) as found
    limit (select %(room)s::int)
), {move_picked}
order by array_position((select %(queues)s::text[]), queue::text), priority desc, run_at, id""",
    served_queues=SERVED_QUEUES,
    ready_jobs=_READY_JOBS,
    move_picked=MOVE_PICKED,
)

# Claim as CLAIM does, but only beyond the frontier: from the lanes that this worker knows, and in each lane only jobs
# after the last one it claimed. The statement costs the same however many dead entries lie before that place. It does
# not see jobs that were committed late or put back before that place, nor new lanes; worker/claiming/frontier.py says
# how often a worker runs CLAIM instead.
CLAIM_BEYOND: LiteralString = fill(
    """
with picked as materialized (
    select found.id, 'pending' as state
    from {served_queues}
    cross join lateral (
        select ready.id
        from (select l.priority, l.run_at, l.id
              from unnest((select %(lane_queues)s::text[]), (select %(lane_priorities)s::smallint[]),
                          (select %(lane_run_ats)s::timestamptz[]), (select %(lane_ids)s::bigint[]))
                   as l(queue, priority, run_at, id)
              where l.queue = served.name order by l.priority desc) as lane
        {ready_jobs}
        limit served.room offset served.skip
    ) as found
    limit (select %(room)s::int)
), {move_picked}
order by array_position((select %(queues)s::text[]), queue::text), priority desc, run_at, id""",
    served_queues=SERVED_QUEUES,
    ready_jobs=_READY_JOBS,
    move_picked=MOVE_PICKED,
)

# Claim parked jobs: a worker that did not know their task has parked them, and this worker knows it. They go from
# blocked to running directly. If they went back to pending first, workers of the old release would park them again and
# again during a deploy.
# Reads job_live_parked, one queue and version of a task after the other. The index has the version as text, so that
# jobs of a version that this worker does not know cost nothing, however many wait. The naive form, to filter by the
# version, walks over all of them each time. Rooms and locks as in CLAIM.
ADOPT: LiteralString = fill(
    """
with picked as materialized (
    select found.id, 'blocked' as state
    from {served_queues}
    cross join lateral (
        select parked.id
        from unnest(%(tasks)s::text[], %(versions)s::text[]) as known(task, version)
        cross join lateral (
            select j.id from {s}.job_live j
            where not exists (select from {s}.task_control c where c.task = known.task and {task_paused})
            and j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
            and coalesce(j.headers::jsonb ->> '$version'::text, '1') = known.version and j.queue::text = served.name
            and j.run_at::timestamptz <= now() and (j.expires_at is null or j.expires_at > now() or j.attempt > 0)
            order by j.priority desc, j.run_at, j.id limit (select %(room)s::int) for update skip locked
        ) as parked
        limit served.room
    ) as found
    limit (select %(room)s::int)
), {move_picked}
order by array_position((select %(queues)s::text[]), queue::text), priority desc, run_at, id""",
    served_queues=SERVED_QUEUES,
    task_paused=TASK_PAUSED,
    move_picked=MOVE_PICKED,
)

# Find the labels of parked jobs of these tasks: a version, or a version with parameters that the worker did not know
# (`1+gift`). Hops along job_live_parked from one label of a task to the next, so that it costs a probe for each task
# and label, however many jobs wait. Most times none does.
PARKED_LABELS: LiteralString = """
select known.task, label.name
from unnest((select %(tasks)s::text[])) as known(task)
cross join lateral (
    with recursive hop(name) as (
        (select coalesce(j.headers::jsonb ->> '$version'::text, '1') from {s}.job_live j
         where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
         order by coalesce(j.headers::jsonb ->> '$version'::text, '1') limit 1)
        union all
        select (select coalesce(j.headers::jsonb ->> '$version'::text, '1') from {s}.job_live j
                where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
                and coalesce(j.headers::jsonb ->> '$version'::text, '1') > hop.name
                order by coalesce(j.headers::jsonb ->> '$version'::text, '1') limit 1)
        from hop where hop.name is not null
    )
    select hop.name from hop where hop.name is not null
) as label"""

# Seconds until the next pending job of these queues is due: null when no job is pending, zero or less when one is due
# already. A worker runs this after a claim that came back empty, to sleep exactly that long. One hop a lane, as in
# CLAIM: the first row of a lane is its earliest. Where that row has expired, or its task is paused, no claim takes it,
# so the answer is a second from now at the earliest, until EXPIRE has ended it or SET_ASIDE has taken it away. To step
# over such rows here would take a filter, and with a filter the planner, without statistics, sorts the queue. Tells too
# whether metered jobs wait there: a probe of job_live_turn for each queue. And which lanes have a job that is due, with
# its run_at: one that the worker has not claimed from yet would wait for a full scan.
NEXT_DUE: LiteralString = fill(
    """
select extract(epoch from min(case when first.expired or first.task = any({paused_tasks})
                                   then greatest(first.run_at, now() + interval '1 s') else first.run_at end)
               - clock_timestamp())::float8,
       exists (select from unnest(%(queues)s::text[]) as served(name) cross join lateral (
           select from {s}.job_live j
           where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = served.name limit 1) as metered),
       (json_agg(json_build_array(served.name, first.priority, first.run_at))
        filter (where first.run_at <= clock_timestamp()
                and (first.expired or first.task = any({paused_tasks})) is not true))::text
from unnest(%(queues)s::text[]) as served(name)
cross join lateral (
    with recursive lane(priority, run_at, expired, task) as (
        (select j.priority::smallint, j.run_at::timestamptz, j.expires_at <= now() and j.attempt = 0, j.task::text
         from {s}.job_live j where j.state = 'pending' and j.queue::text = served.name
         order by j.priority desc, j.run_at limit 1)
        union all
        select following.priority, following.run_at, following.expired, following.task
        from lane cross join lateral (
            select j.priority::smallint, j.run_at::timestamptz, j.expires_at <= now() and j.attempt = 0 as expired,
                   j.task::text
            from {s}.job_live j
            where j.state = 'pending' and j.queue::text = served.name and j.priority::smallint < lane.priority
            order by j.priority desc, j.run_at limit 1) as following
    )
    select lane.priority, lane.run_at, lane.expired, lane.task from lane
) as first
where not exists (select from {s}.queue q where q.name = served.name and {paused})""",
    paused_tasks=PAUSED_TASKS,
    paused=PAUSED,
)


Lane: TypeAlias = tuple[str, int]  # a queue and a priority
Place: TypeAlias = tuple[datetime, int]  # in a lane: run_at and id of a job


class Portion(NamedTuple):
    """How many jobs a queue may give in a claim, beyond `skip` that it gives in an earlier portion."""

    queue: str
    room: int
    skip: int


Rooms: TypeAlias = Mapping[str, int] | Sequence[Portion]  # in order


def claimed_jobs(rows: Sequence[Row], worker: UUID) -> list[ClaimedJob]:
    """Read the rows of a claim."""
    return [ClaimedJob(*row, worker) for row in rows]  # type: ignore[call-arg]  # a row of any length, to mypy


def portion_params(rooms: Rooms) -> dict[str, object]:
    """Return the parameters of SERVED_QUEUES."""
    portions = [Portion(*room, 0) for room in rooms.items()] if isinstance(rooms, Mapping) else rooms
    return {
        "queues": [portion.queue for portion in portions],
        "rooms": [portion.room for portion in portions],
        "skips": [portion.skip for portion in portions],
    }


def _labels(rows: Sequence[Row]) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for task, label in rows:
        labels.setdefault(task, []).append(label)
    return labels


class NextDue(NamedTuple):
    """In how many seconds the next pending job is due, None if none is there; whether metered jobs wait; and the lanes
    that have a job which is due, with the run_at of the first one."""

    seconds: float | None
    metered: bool
    lanes: Mapping[Lane, datetime]


class ClaimQueries(Statements):
    """Claiming jobs."""

    def claim(self, worker: UUID, rooms: Rooms, room: int) -> Query[list[ClaimedJob]]:
        """Claim up to `room` due jobs; `rooms` says how many each queue may give, in order."""
        params = {"worker": worker, "room": room} | portion_params(rooms)
        return Query(self._sql(CLAIM), lambda rows: claimed_jobs(rows, worker), params)

    def claim_beyond(
        self, worker: UUID, rooms: Rooms, room: int, frontier: Mapping[Lane, Place]
    ) -> Query[list[ClaimedJob]]:
        """Claim as `claim` does, but only from the lanes of a frontier, and in each only jobs after its place."""
        params = {"worker": worker, "room": room} | portion_params(rooms)
        params |= {
            "lane_queues": [queue for queue, _ in frontier],
            "lane_priorities": [priority for _, priority in frontier],
            "lane_run_ats": [run_at for run_at, _ in frontier.values()],
            "lane_ids": [job_id for _, job_id in frontier.values()],
        }
        return Query(self._sql(CLAIM_BEYOND), lambda rows: claimed_jobs(rows, worker), params)

    def adopt(
        self,
        worker: UUID,
        rooms: Mapping[str, int],
        tasks: Sequence[str],
        room: int,
        labels: Mapping[str, Sequence[str]] = {},
    ) -> Query[list[ClaimedJob]]:
        """Claim up to `room` parked jobs of tasks that this worker knows; `rooms` as in `claim`.

        `labels`: those under which the jobs wait, by task; only the first version where a task has none.
        """
        known = [(task, label) for task in tasks for label in labels.get(task, ("1",))]
        params = {"worker": worker, "room": room} | portion_params(rooms)
        params |= {"tasks": [task for task, _ in known], "versions": [version for _, version in known]}
        return Query(self._sql(ADOPT), lambda rows: claimed_jobs(rows, worker), params)

    def parked_labels(self, tasks: Sequence[str]) -> Query[dict[str, list[str]]]:
        """Find the labels under which jobs of these tasks are parked, by task."""
        return Query(self._sql(PARKED_LABELS), _labels, {"tasks": list(tasks)})

    def next_due(self, queues: Sequence[str]) -> Query[NextDue]:
        """Tell in how many seconds the next pending job of these queues is due, and whether metered jobs wait."""
        return Query(self._sql(NEXT_DUE), _next_due, {"queues": list(queues)})


def _next_due(rows: Sequence[Row]) -> NextDue:
    seconds, metered, lanes = rows[0]
    first = json.loads(lanes) if lanes is not None else ()
    return NextDue(seconds, metered, {(q, priority): datetime.fromisoformat(at) for q, priority, at in first})
