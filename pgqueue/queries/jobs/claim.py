"""Taking jobs for one attempt."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import LiteralString, TypeAlias
from uuid import UUID

from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.base import Query, Row, Statements

# What both claims do with the rows they have picked: charge the attempt, raise the lease, log the move.
# The attempt is counted here and not at the end, so that a job that kills its worker each time still runs out of
# attempts. `picked` holds row locks, and as a CTE with FOR UPDATE it is never inlined: the update cannot touch more
# rows than were picked. The state is checked again nevertheless. The unique key of a job that was to be the only one
# until it starts is given up here, and by nobody else.
# By primary key, in one scan with an array. A join with `picked` leaves the planner a choice: by how many rows it
# happens to expect it reads the whole table, or probes the key for each row, which with the array beside it takes it
# apart each time (30 µs a job where this takes 10, and after each VACUUM another one). The state is no constant, or a
# partial index would do, whose dead entries a pinned table keeps.
# _IN_ORDER is the order in which they were picked.
_MOVE: LiteralString = """, moved as (
    update {s}.job_live j
    set state = 'running', waits_for = null, progress = null, attempt = j.attempt + 1, lease = j.lease + 1,
        worker_id = %(worker)s, claimed_at = now(), unique_key = case when j.unique_live then j.unique_key end
    where j.id = any(array(select id from picked)) and j.state = (select state from picked limit 1)
    returning j.id, j.task, j.queue, j.priority, j.args, j.tags, j.headers, j.run_at, j.created_at, j.attempt,
        j.max_attempts, j.lease, j.history
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, worker_id)
    select id, (select state from picked limit 1), 'running', attempt, lease, %(worker)s from moved where history
)
select id, task, queue, priority, args::text, nullif(tags, '{{}}'), nullif(headers, '{{}}')::text, run_at, created_at,
       attempt, max_attempts, lease
from moved"""

_IN_ORDER: LiteralString = (
    " order by array_position((select %(queues)s::text[]), queue::text), priority desc, run_at, id"
)

# Claim up to `room` due jobs, queues in the order given, higher priority first, then by run_at and id.
# SKIP LOCKED: two workers never wait for each other and never get the same row.
# A lane is a queue and a priority, and each is read in exact index order (job_live_ready). The obvious form, `queue =
# any(…) order by priority desc, run_at, id limit n`, sorts the whole backlog: 1,222 ms against 0.5 ms on 2 million
# rows. The other one, `where id in (select … limit n for update skip locked)`, can run its subquery again for each row
# outside and take more than n.
# A queue gives at most its own room (how many more of it this worker may run). Paused queues give nothing.
# A worker that has been declared lost gets nothing: its jobs would be taken from it at once.
# Outer limits stop the nested loops, so no row is locked that is not taken.
# A job that has expired is passed by, until EXPIRE has cancelled it: the row is at hand anyway, and the alternative, to
# claim it and give it back as cancelled, charges an attempt that never was.
# The subselects hide what the parameters are from the planner: it would plan each claim anew, a third of a millisecond.
_SERVED: LiteralString = """
with picked as materialized (
    select found.id, 'pending' as state
    from (select u.name, u.room
          from unnest((select %(queues)s::text[]), (select %(rooms)s::int[])) with ordinality as u(name, room, ord)
          where not exists (select from {s}.queue q where q.name = u.name and q.paused_at is not null)
          and not exists (select from {s}.worker w where w.id = (select %(worker)s::uuid) and w.lost_at is not null)
          order by u.ord) as served
    cross join lateral ("""

_READY: LiteralString = """
        cross join lateral (
            select j.id from {s}.job_live j
            where j.state = 'pending' and j.queue = served.name and j.priority = lane.priority and j.run_at <= now()
            and (j.run_at, j.id) > (lane.run_at, lane.id)
            and (j.expires_at is null or j.expires_at > now() or j.attempt > 0)
            order by j.run_at, j.id limit (select %(room)s::int) for update skip locked
        ) as ready
        limit served.room
    ) as found
    limit (select %(room)s::int)
)"""

# The truth: `lane` finds the priorities that exist by hopping from one to the next in the ready index, and each lane is
# read from its beginning. What was claimed lately lies there as dead entries until VACUUM may remove them, which
# somebody's long transaction prevents: then this walks over all of them, 25,000 jobs/s became 4,285.
CLAIM: LiteralString = (
    _SERVED
    + """
        with recursive hop(priority) as (
            (select j.priority from {s}.job_live j where j.state = 'pending' and j.queue = served.name
             order by j.priority desc limit 1)
            union all
            select (select j.priority from {s}.job_live j
                    where j.state = 'pending' and j.queue = served.name and j.priority < hop.priority
                    order by j.priority desc limit 1)
            from hop where hop.priority is not null
        )
        select ready.id
        from (select hop.priority, '-infinity'::timestamptz as run_at, 0::bigint as id
              from hop where hop.priority is not null order by hop.priority desc) as lane"""
    + _READY
    + _MOVE
    + _IN_ORDER
)

# The same from where this worker has read to: the lanes it knows, and in each what comes after the last job it claimed.
# Costs the same whatever is dead before that. It does not see what was committed late or put back before that, nor new
# lanes: the truth is asked as often as it is cheap (worker/frontier.py).
CLAIM_BEYOND: LiteralString = (
    _SERVED
    + """
        select ready.id
        from (select l.priority, l.run_at, l.id
              from unnest((select %(lane_queues)s::text[]), (select %(lane_priorities)s::smallint[]),
                          (select %(lane_run_ats)s::timestamptz[]), (select %(lane_ids)s::bigint[]))
                   as l(queue, priority, run_at, id)
              where l.queue = served.name order by l.priority desc) as lane"""
    + _READY
    + _MOVE
    + _IN_ORDER
)

# Claim parked jobs: a worker that met a task it does not know put them aside (`park`), and this worker knows it.
# They are claimed here directly and not put back to pending first, or workers of the old release would park them
# again and again during a deploy. Reads job_live_parked, one queue and version of a task after the other: the index has
# the version as text, so that the jobs of a version unknown here cost nothing, however many wait. The naive form, to
# filter by the version, walks over all of them each time. Rooms as in CLAIM.
ADOPT: LiteralString = (
    """
with picked as materialized (
    select found.id, 'blocked' as state
    from (select u.name, u.room
          from unnest((select %(queues)s::text[]), (select %(rooms)s::int[])) with ordinality as u(name, room, ord)
          where not exists (select from {s}.queue q where q.name = u.name and q.paused_at is not null)
          and not exists (select from {s}.worker w where w.id = (select %(worker)s::uuid) and w.lost_at is not null)
          order by u.ord) as served
    cross join lateral (
        select parked.id
        from unnest(%(tasks)s::text[], %(versions)s::text[]) as known(task, version)
        cross join lateral (
            select j.id from {s}.job_live j
            where j.state = 'blocked' and j.waits_for = 'task' and j.task = known.task
            and coalesce(j.headers ->> '$version', '1') = known.version and j.queue = served.name
            and j.run_at <= now() and (j.expires_at is null or j.expires_at > now() or j.attempt > 0)
            order by j.priority desc, j.run_at, j.id limit (select %(room)s::int) for update skip locked
        ) as parked
        limit served.room
    ) as found
    limit (select %(room)s::int)
)"""
    + _MOVE
    + _IN_ORDER
)

# Seconds until the next pending job of these queues is due: null when none is, zero or less when one is due already.
# Asked when a claim came back empty, so that a worker can sleep exactly that long. One hop a lane, as in CLAIM:
# the first row of a lane is its earliest. Where that has expired nobody claims it: a second, until it is swept away.
# To step over such rows here would be a filter, for which the planner, without statistics, sorts the queue.
NEXT_DUE: LiteralString = """
select extract(epoch from min(case when first.late then now() + interval '1 s' else first.run_at end)
               - clock_timestamp())::float8
from unnest(%(queues)s::text[]) as served(name)
cross join lateral (
    with recursive lane(priority, run_at, late) as (
        (select j.priority, j.run_at, j.expires_at <= now() and j.attempt = 0
         from {s}.job_live j where j.state = 'pending' and j.queue = served.name
         order by j.priority desc, j.run_at limit 1)
        union all
        select following.priority, following.run_at, following.late
        from lane cross join lateral (
            select j.priority, j.run_at, j.expires_at <= now() and j.attempt = 0 as late from {s}.job_live j
            where j.state = 'pending' and j.queue = served.name and j.priority < lane.priority
            order by j.priority desc, j.run_at limit 1) as following
    )
    select lane.run_at, lane.late from lane
) as first
where not exists (select from {s}.queue q where q.name = served.name and q.paused_at is not null)"""

Lane: TypeAlias = tuple[str, int]  # a queue and a priority

Place: TypeAlias = tuple[datetime, int]  # in a lane: run_at and id of a job


def _jobs(rows: Sequence[Row], worker: UUID) -> list[ClaimedJob]:
    return [ClaimedJob(*row, worker) for row in rows]  # type: ignore[call-arg]  # a row of any length, to mypy


class ClaimQueries(Statements):
    """Taking jobs for one attempt."""

    def claim(self, worker: UUID, rooms: Mapping[str, int], room: int) -> Query[list[ClaimedJob]]:
        """Claim up to `room` due jobs; `rooms` maps each queue, in order, to how many it may give."""
        params = {"worker": worker, "queues": list(rooms), "rooms": list(rooms.values()), "room": room}
        return Query(self._sql(CLAIM), lambda rows: _jobs(rows, worker), params)

    def claim_beyond(
        self, worker: UUID, rooms: Mapping[str, int], room: int, frontier: Mapping[Lane, Place]
    ) -> Query[list[ClaimedJob]]:
        """Claim as `claim` does, from the lanes of a frontier alone, and in each only what comes after its place."""
        params = {"worker": worker, "queues": list(rooms), "rooms": list(rooms.values()), "room": room}
        params |= {
            "lane_queues": [queue for queue, _ in frontier],
            "lane_priorities": [priority for _, priority in frontier],
            "lane_run_ats": [run_at for run_at, _ in frontier.values()],
            "lane_ids": [job_id for _, job_id in frontier.values()],
        }
        return Query(self._sql(CLAIM_BEYOND), lambda rows: _jobs(rows, worker), params)

    def adopt(
        self,
        worker: UUID,
        rooms: Mapping[str, int],
        tasks: Sequence[str],
        room: int,
        versions: Mapping[str, int] = {},
    ) -> Query[list[ClaimedJob]]:
        """Claim up to `room` parked jobs of tasks this worker knows; `rooms` as in `claim`.

        `versions`: up to which one, of tasks that have more than the first.
        """
        known = [(task, str(n)) for task in tasks for n in range(1, versions.get(task, 1) + 1)]
        params = {"worker": worker, "queues": list(rooms), "rooms": list(rooms.values()), "room": room}
        params |= {"tasks": [task for task, _ in known], "versions": [version for _, version in known]}
        return Query(self._sql(ADOPT), lambda rows: _jobs(rows, worker), params)

    def next_due(self, queues: Sequence[str]) -> Query[float | None]:
        """Seconds until a pending job of these queues is due."""
        return Query(self._sql(NEXT_DUE), lambda rows: rows[0][0], {"queues": list(queues)})
