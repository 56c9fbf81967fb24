"""Looking at the lanes of metered jobs: which there are, when each is due, and whether its buckets have room."""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

from pgqueue.queries.base import Query, Row, Statements, fill, first_value
from pgqueue.queries.jobs.parts import MAY_NOTIFY, PAUSED, PAUSED_TASKS
from pgqueue.queries.jobs.turns import BUCKET, HELD_BY, OPENING, ROOM, RULES, TURN_AT, WAITS

# The first jobs of a lane. `is_first`: the very first one; else a hundred, which nothing asks while no task is paused.
_FIRST: LiteralString = """select j.headers::jsonb -> '$flow'::text as flow, j.run_at::timestamptz as run_at, j.id,
               j.lease,
               coalesce(j.task::text <> all({paused_tasks}), true) as runs,
               case when j.expires_at <= now() and j.attempt = 0 then 1::float8
                    else extract(epoch from j.run_at::timestamptz - clock_timestamp())::float8 end as due_in
         from {s}.job_live j
         where {waits} and j.queue::text = served.queue and j.lane::bigint = lane.number
         and j.priority::smallint = lane.priority and ({paused_tasks} is null or lane.number < 0) = {is_first}
         order by {turn_at}, j.id limit {most}"""

_PARTS: dict[str, LiteralString] = {"paused_tasks": PAUSED_TASKS, "waits": WAITS, "turn_at": TURN_AT}

# Look at the lanes of metered jobs in these queues, of each queue at most so many beyond a lane. Locks nothing, and
# what it says is a hint: the claim decides. `hop` goes along job_live_turn from one lane to the next, as the full scan
# does, and so costs a few probes a lane however many jobs wait there. Of each lane it reads the first job, whose flow
# all its jobs share, and of each bucket the newest version, from the right end of its primary key.
# `room` is null where a bucket does not exist yet; where a lane has no buckets it is any number. A lane whose first job
# has expired is due in a second, when EXPIRE has ended it.
# Of a job that has kept places while it waited, these are part of the flow as `kept`: only a pause and a closed bucket
# hold it back there, as CLAIM_KEPT says, and no rate, the fleet's or this worker's.
# It says what claims pass over, or a worker would claim in vain again and again. A paused queue has no lanes. While a
# task is paused the first job is the first one of another task, looked for among a hundred; in a lane in order it is
# the very first. A lane that shows none is due in ten seconds, in case one is behind those. Each look asks again.
LOOK: LiteralString = fill(
    """
select served.queue, lane.number, lane.priority,
       (case when first.kept is null then first.flow
             else first.flow || jsonb_build_object('kept', first.kept) end)::text,
       first.run_at, first.id, first.due_in,
       free.room, free.opens_in, free.paced, free.policy, share.weight
from (
    select g.queue, g.after from unnest((select %(queues)s::text[]), (select %(after)s::bigint[])) as g(queue, after)
    where not exists (select from {s}.queue q where q.name = g.queue and {paused})
) as served
cross join lateral (
    with recursive hop(number, priority, n) as (
        (select j.lane::bigint, j.priority::smallint, 1 from {s}.job_live j
         where {waits} and j.queue::text = served.queue and j.lane::bigint > served.after
         order by j.lane, j.priority desc limit 1)
        union all
        select next.number, next.priority, hop.n + 1
        from hop cross join lateral (
            (select j.lane::bigint as number, j.priority::smallint as priority from {s}.job_live j
             where {waits} and j.queue::text = served.queue and j.lane::bigint = hop.number
             and j.priority::smallint < hop.priority
             order by j.lane, j.priority desc limit 1)
            union all
            (select j.lane::bigint, j.priority::smallint from {s}.job_live j
             where {waits} and j.queue::text = served.queue and j.lane::bigint > hop.number
             order by j.lane, j.priority desc limit 1)
            limit 1) as next
        where hop.n < %(at_most)s::int
    )
    select hop.number, hop.priority from hop
) as lane
cross join lateral (
    select w.flow, k.kept, w.run_at, w.id,
           case when w.runs then w.due_in else greatest(w.due_in, 10::float8) end as due_in
    from (
        ({first_of_all})
        union all
        (select p.* from ({first_hundred}) as p order by p.runs desc, p.run_at, p.id limit 1)
    ) as w cross join lateral (select {kept} as kept) as k
) as first
cross join lateral (
    select case when bool_and(b.name is not null) is false then null else coalesce(min(b.room), 2147483647) end as room,
           max(b.opens_in) as opens_in, jsonb_agg(b.pace) filter (where b.pace is not null)::text as paced,
           max(b.policy) as policy
    from jsonb_array_elements_text(first.flow -> 'buckets'::text) as part(name)
    left join lateral (
        select u.name, c.room, case when not isfinite(c.opens_at) then 'infinity'::float8
            else extract(epoch from c.opens_at - clock_timestamp())::float8 end as opens_in,
            case when (first.kept ? u.name) is not true then c.pace end as pace,
            case when r.on_full <> 'wait' and coalesce(k.max_running, r.max_running) <= u.running
                 then concat_ws(' ', r.on_full, u.name) end as policy
        from (select c.name, c.rule, c.closed_until, c.opened,
                     case when (first.kept ? c.name) is not true then c.running end as running,
                     case when first.kept ? c.name then '-infinity' else c.tat end as tat from {bucket} as c) as u
        {rules}
        cross join lateral (select{room},{opening}) as c
    ) as b on true
) as free
left join lateral (
    select k.weight::float8 as weight from {s}.limit_key k
    where k.rule = split_part(first.flow ->> 'share'::text, '/', 1)
    and k.key = substr(first.flow ->> 'share'::text, position('/' in first.flow ->> 'share'::text) + 1) limit 1
) as share on true""",
    waits=WAITS,
    rules=RULES,
    bucket=fill(BUCKET, name="part.name"),
    kept=fill(HELD_BY, job="w"),
    room=fill(ROOM, moment="now()"),
    opening=OPENING,
    paused=PAUSED,
    first_of_all=fill(_FIRST, is_first="true", most="1", **_PARTS),
    first_hundred=fill(_FIRST, is_first="false", most="100", **_PARTS),
)

# Tell other workers that sleep of room in these queues: a worker whose slots are full has seen jobs there that could
# start. The ends of metered jobs notify nobody, for who ends one mostly starts the next. Writes nothing. By the primary
# key of worker.
TELL_OF_ROOM: LiteralString = fill(
    """
select count(pg_notify({channel}, g.queue)) from unnest((select %(queues)s::text[])) as g(queue)
where exists (
    select from {s}.worker w where w.waiting and g.queue = any(w.queues) and w.id <> (select %(worker)s::uuid))
and {may_notify}""",
    may_notify=MAY_NOTIFY,
)


class SeenLane(NamedTuple):
    """A lane as a look has found it.

    `flow`: the header of its first job, as JSON text, whose time and id are `run_at` and `id`; with `kept`, the buckets
    that it has kept while it waited. `due_in`: seconds until
    that job is due, at most 0 if it is. `room`: how many of its jobs could start now; None if one of its buckets does
    not exist yet. `opens_in`: seconds until there is room, None if there is; infinite where that depends on others.
    `paced`: rates that each worker keeps for itself, as JSON: bucket, burst, and seconds between two starts. `policy`:
    what a rule says of jobs behind its full bucket, and the bucket; None if they wait. `weight`: of its fair share, if
    it is not 1.
    """

    queue: str
    number: int
    priority: int
    flow: str
    run_at: datetime
    id: int
    due_in: float
    room: int | None
    opens_in: float | None
    paced: str | None
    policy: str | None
    weight: float | None

    @property
    def can_begin(self) -> bool:
        """Whether a job of it could start now."""
        return self.due_in <= 0 and self.opens_in is None and self.room != 0


class LookQueries(Statements):
    """Looking at lanes."""

    def look(self, places: Sequence[tuple[str, int]], at_most: int) -> Query[list[SeenLane]]:
        """Look at the lanes of queues, of each queue at most so many beyond the number of a lane."""
        params = {"queues": [queue for queue, _ in places], "after": [lane for _, lane in places], "at_most": at_most}
        return Query(self._sql(LOOK), _lanes, params)

    def tell_of_room(self, worker: UUID, queues: Sequence[str]) -> Query[int]:
        """Notify the other workers that sleep and serve one of these queues; returns of how many queues."""
        return Query(self._sql(TELL_OF_ROOM), first_value, {"worker": worker, "queues": list(queues)})


def _lanes(rows: Sequence[Row]) -> list[SeenLane]:
    return [SeenLane(*row) for row in rows]
