"""Claiming metered jobs: those whose turn limits, rates, an order or fair shares decide about."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from typing import Any, LiteralString, NamedTuple, TypeAlias
from uuid import UUID

from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.base import Query, Row, Statements, fill, lines, packed
from pgqueue.queries.jobs.claim import CLAIMED, MOVED, claimed_jobs
from pgqueue.queries.jobs.parts import NOT_PAUSED, PAUSED
from pgqueue.queries.jobs.turns import ROOM, RULES, TURN_AT, WAITS

# Lock the counters of the buckets in `part`, in the order of their names, and tell what each has room for. `instant` is
# the time by which rates are judged, read when all locks are held. What jobs have given back is read as the snapshot of
# this statement has it, without a lock: of a bucket that has changed since, it takes more jobs for running than do.
_BUCKETS: LiteralString = fill(
    """seen as materialized (
    select b.name, b.shared, u.version from (select name, count(*) > 1 as shared from part group by name) as b
    cross join lateral (
        select u.version from {s}.limit_use u where u.name = b.name order by u.version desc limit 1) as u
    order by b.name collate "C"
), held as materialized (
    {held}
), instant as materialized (
    select clock_timestamp() as at from (select count(*) from held) as all_of_them
), bucket as materialized (
    select u.name, u.seen,{room}
    from instant cross join (
        select h.*, greatest(least(h.taken - f.freed, 2147483647), 0)::int as running, f.closed_until, f.opened
        from held h cross join lateral (
            select f.* from {s}.limit_freed f where f.name = h.name order by f.version desc limit 1) as f) as u
        {rules}
), free as materialized (
    select b.name, b.seen, b.step, least(b.room, greatest((select %(slots)s::int),
        case when b.step is null and b.room > 1 then b.room - b.room / 2 end)) as room
    from bucket b
)""",
    room=fill(ROOM, moment="instant.at"),
    rules=RULES,
)
_WAITING: LiteralString = """select s.version as seen, u.* from seen s
    cross join lateral (
        select * from {s}.limit_use u where u.name = any(array[s.name]) and u.version >= s.version for update) as u"""
# Where many lanes are claimed from, a bucket that is one lane's alone and that somebody has locked just now is left for
# the next claim: with a thousand buckets, the claims of several workers would wait for each other all the time.
_SKIPPING: LiteralString = fill(
    """{waiting}
    where s.shared or (select count(*) <= 32 from line)
    union all
    {skipping}
    where not s.shared and (select count(*) > 32 from line)""",
    waiting=_WAITING,
    skipping=_WAITING.replace("for update) as u", "for update skip locked) as u"),
)
# The jobs of each lane that is `open`, as many as it has room for, locked; and of a lane in order its first job only.
_ALONG: LiteralString = fill(
    """select o.ord, o.priority, c.id, c.at from open o
    cross join lateral (
        select j.id, {turn_at} as at from {s}.job_live j
        where {waits} and j.queue::text = (select %(queue)s::text) and j.lane::bigint = o.lane
        and j.priority::smallint = o.priority and ({turn_at}, j.id) > (o.run_at, o.id) and {turn_at} <= now()
        and (j.expires_at is null or j.expires_at > now() or j.attempt > 0) and {not_paused}
        and j.headers::jsonb -> '$flow'::text -> 'buckets'::text = o.buckets
        order by {turn_at}, j.id limit o.room for update skip locked
    ) as c
    where o.lane >= 0 and o.room > 0""",
    waits=WAITS,
    turn_at=TURN_AT,
    not_paused=NOT_PAUSED,
)
_FIRST: LiteralString = fill(
    """select o.ord, o.priority, c.id, c.at from open o
    cross join lateral (
        select j.id from {s}.job_live j
        where {waits} and j.queue::text = (select %(queue)s::text) and j.lane::bigint = o.lane
        and j.priority::smallint = o.priority
        order by {turn_at}, j.id limit 1
    ) as head
    cross join lateral (
        select j.id, j.run_at::timestamptz as at from {s}.job_live j
        where j.id = head.id and j.state = 'blocked' and j.waits_for = 'turn' and j.run_at::timestamptz <= now()
        and (j.expires_at is null or j.expires_at > now() or j.attempt > 0) and {not_paused}
        and j.headers::jsonb -> '$flow'::text -> 'buckets'::text = o.buckets
        limit 1 for update skip locked
    ) as c
    where o.lane < 0 and o.room > 0""",
    waits=WAITS,
    turn_at=TURN_AT,
    not_paused=NOT_PAUSED,
)
# Whether jobs of the queue may be claimed by this worker.
_MAY_CLAIM: LiteralString = fill(
    """not exists (select from {s}.queue q where q.name = (select %(queue)s::text) and {paused})
    and not exists (select from {s}.worker w where w.id = (select %(worker)s::uuid) and w.lost_at is not null)""",
    paused=PAUSED,
)

# Claim up to `room` metered jobs of one queue from lanes that the worker knows, in its order, of each at most so many.
# All jobs of a lane have the same buckets, so that a lane as a whole can run or cannot: jobs behind a full bucket are
# never walked over.
# Exact at every instant: `held` locks the row of each bucket that says how many places were taken, and returns its
# newest version, so that what others have claimed a moment ago counts, and `used` changes that row in this same
# statement. The naive form counts running jobs, or reads the row, in the snapshot of the statement: while it waited for
# the lock others have claimed, which that snapshot does not show (169 of 719 claims exceeded a limit). What was given
# back is another row, and only grows: the snapshot may show less of it than there is, so that a claim takes too few,
# never too many; and no claim waits for an end. SKIP LOCKED on jobs slides on to the next.
# Buckets are locked in the order of their names, and job rows only if nobody else has them: so claims wait for each
# other in one order, and never for a job.
# `picked` takes the higher priorities first, and of each the first job of each lane, then the second of each, as far as
# each of their buckets has room. A job that one bucket refuses may count against another one: too few, never too many.
# `slots` is how many jobs would begin at once. What is claimed ahead of slots takes at most half of the room that a
# bucket has left, and none of a rate: the room of a limit is for what runs.
# A lane in order gives its first job only, if that is due. It is found without a lock and then locked: SKIP LOCKED on
# the lane would slide past a locked head. Its place is not believed, because a retry puts a job back before it. A job
# that has run since the snapshot of this statement, and was put back or has stopped its key, is no danger: the snapshot
# shows the next one as the first, but does not show the place of the order given back.
# Each lane is read in the order of job_live_turn. The version of a bucket is looked up from the right end of its
# primary key, and the update begins at that version (parts.py says why).
CLAIM_TURNS: LiteralString = fill(
    r"""
with line as materialized (
    select l.ord, l.lane, l.priority, l.buckets::jsonb as buckets, l.most, l.run_at, l.id
    from unnest((select %(lanes)s::bigint[]), (select %(priorities)s::smallint[]),
                (select string_to_array(%(buckets)s, E'\n')), (select %(mosts)s::int[]),
                (select %(run_ats)s::timestamptz[]), (select %(ids)s::bigint[]))
         with ordinality as l(lane, priority, buckets, most, run_at, id, ord)
    where {may_claim}
), part as materialized (
    select l.ord, b.name from line l cross join lateral jsonb_array_elements_text(l.buckets) as b(name)
), {buckets}, room as (
    select p.ord, min(case when f.name is null then 0 else f.room end) as room
    from part p left join free f on f.name = p.name group by p.ord
), open as materialized (
    select l.*, least(r.room, l.most) as room
    from line l left join room r on r.ord = l.ord
), candidate as materialized (
    {along}
    union all
    {first}
), numbered as (
    select c.ord, c.priority, c.id, row_number() over (partition by c.ord order by c.at, c.id) as n from candidate c
), parted as (
    select n.ord, n.priority, n.id, n.n, f.room,
           row_number() over (partition by p.name order by n.priority desc, n.n, n.ord) as place
    from numbered n left join part p on p.ord = n.ord left join free f on f.name = p.name
), picked as materialized (
    select p.id, 'blocked' as state, p.ord from parted p
    group by p.ord, p.priority, p.id, p.n having bool_and(coalesce(p.place <= p.room, true))
    order by p.priority desc, p.n, p.ord limit (select %(room)s::int)
), taken as (
    select f.name, f.seen, f.step, count(*)::int as jobs
    from picked k join part p on p.ord = k.ord join free f on f.name = p.name group by f.name, f.seen, f.step
), used as (
    update {s}.limit_use u
    set taken = u.taken + t.jobs, version = u.version + 1,
        tat = greatest(u.tat, (select at from instant))
            + make_interval(secs => coalesce(t.jobs::float8 * t.step, 0::float8))
    from taken t where u.name = any(array[t.name]) and u.version >= t.seen
), {moved}
select {claimed} from moved""",
    may_claim=_MAY_CLAIM,
    buckets=fill(_BUCKETS, held=_SKIPPING),
    along=_ALONG,
    first=_FIRST,
    moved=MOVED,
    claimed=CLAIMED,
)

# Claim from lanes of one priority whose jobs have no bucket, since they only share fairly: what CLAIM_TURNS does, with
# the same promises. Nothing is to be counted, and what the worker asks of the lanes has room together. So each lane
# gives all that, and to number and sort the candidates, a tenth of the claim, is left out. A job of the lane that has
# buckets, by a collision, is passed over. By job_live_turn, from the place of each lane.
CLAIM_SHARES: LiteralString = fill(
    r"""
with line as materialized (
    select l.ord, l.lane, l.most, l.run_at, l.id
    from unnest((select %(lanes)s::bigint[]), (select %(mosts)s::int[]), (select %(run_ats)s::timestamptz[]),
                (select %(ids)s::bigint[])) with ordinality as l(lane, most, run_at, id, ord)
    where {may_claim}
), picked as materialized (
    select c.id, 'blocked' as state
    from (select * from line order by ord) as o
    cross join lateral (
        select j.id from {s}.job_live j
        where {waits} and j.queue::text = (select %(queue)s::text) and j.lane::bigint = o.lane
        and j.priority::smallint = (select %(priority)s::smallint) and ({turn_at}, j.id) > (o.run_at, o.id)
        and {turn_at} <= now() and (j.expires_at is null or j.expires_at > now() or j.attempt > 0) and {not_paused}
        and j.headers::jsonb -> '$flow'::text -> 'buckets'::text = '[]'::jsonb
        order by {turn_at}, j.id limit o.most for update skip locked
    ) as c
    limit (select %(room)s::int)
), {moved}
select {claimed} from moved""",
    may_claim=_MAY_CLAIM,
    waits=WAITS,
    turn_at=TURN_AT,
    not_paused=NOT_PAUSED,
    moved=MOVED,
    claimed=CLAIMED,
)

# Claim from one lane: what CLAIM_TURNS does, with the same promises, for the usual case. A lane alone needs no turns,
# and whatever its buckets admit goes to it: to start and end the parts that sort that out was half of the cost of a
# claim of one job. CLAIM_FIRST is for a lane in order.
_CLAIM_LANE: LiteralString = fill(
    r"""
with line as materialized (
    select 1 as ord, %(lane)s::bigint as lane, %(priority)s::smallint as priority, %(buckets)s::jsonb as buckets,
           %(most)s::int as most, %(run_at)s::timestamptz as run_at, %(id)s::bigint as id
    where {may_claim}
), part as materialized (
    select b.name from line l cross join lateral jsonb_array_elements_text(l.buckets) as b(name)
), {buckets}, open as materialized (
    select l.*, case when b.whole then least(b.room, l.most) else 0 end as room
    from line l cross join (
        select count(*) = (select count(*) from part) as whole, min(f.room) as room from free f) as b
), candidate as materialized (
    {candidates}
), picked as materialized (
    select c.id, 'blocked' as state from candidate c order by c.at, c.id limit (select %(room)s::int)
), used as (
    update {s}.limit_use u
    set taken = u.taken + t.jobs, version = u.version + 1,
        tat = greatest(u.tat, (select at from instant))
            + make_interval(secs => coalesce(t.jobs::float8 * t.step, 0::float8))
    from (select f.name, f.seen, f.step, k.jobs from free f cross join (select count(*)::int as jobs from picked) as k
          where k.jobs > 0) as t
    where u.name = any(array[t.name]) and u.version >= t.seen
), {moved}
select {claimed} from moved""",
    may_claim=_MAY_CLAIM,
    buckets=fill(_BUCKETS, held=_WAITING),
    moved=MOVED,
    claimed=CLAIMED,
)
CLAIM_LANE: LiteralString = fill(_CLAIM_LANE, candidates=_ALONG)
CLAIM_FIRST: LiteralString = fill(_CLAIM_LANE, candidates=_FIRST)


LaneKey: TypeAlias = tuple[int | None, int]  # the number and the priority of a lane
MANY_LANES = 64  # a claim from more lanes asks a few jobs of each
_PLACE = attrgetter("run_at", "id")  # of a job in its lane
_TURN = itemgetter(0, 1, 2)


class Line(NamedTuple):
    """A lane of metered jobs from which to claim at most so many: its number and priority, its buckets as JSON text,
    and the place after which to begin."""

    lane: int
    priority: int
    buckets: str
    most: int
    run_at: datetime | None = None
    id: int = 0


class ClaimedTurns(NamedTuple):
    """The jobs that a claim has brought, in the order of turns, and those of each lane."""

    jobs: Sequence[ClaimedJob]
    lanes: Mapping[LaneKey, Sequence[ClaimedJob]]


class TurnClaimQueries(Statements):
    """Claiming metered jobs."""

    def claim(self, worker: UUID, queue: str, lanes: Sequence[Line], *, room: int, slots: int) -> Query[ClaimedTurns]:
        """Claim up to `room` due jobs from these lanes of a queue, of which `slots` would begin at once."""

        def read(rows: Sequence[Row]) -> ClaimedTurns:
            found = by_lane(claimed_jobs(rows, worker))
            return ClaimedTurns(in_turn(lanes, found), found)

        params: dict[str, Any] = {"worker": worker, "queue": queue, "room": room, "slots": slots}
        starts = [line.run_at.astimezone(UTC).isoformat() if line.run_at else "-infinity" for line in lanes]
        if len(lanes) == 1:
            lane = lanes[0]
            params |= lane._asdict() | {"run_at": starts[0]}
            return Query(self._sql(CLAIM_LANE if lane.lane >= 0 else CLAIM_FIRST), read, params)
        params |= {
            "lanes": packed([line.lane for line in lanes]), "mosts": packed([line.most for line in lanes]),
            "run_ats": packed(starts), "ids": packed([line.id for line in lanes]),
        }  # fmt: skip
        if _only_share(lanes, room):
            params["priority"] = lanes[0].priority
            return Query(self._sql(CLAIM_SHARES), read, params)
        params |= {
            "priorities": packed([line.priority for line in lanes]),
            "buckets": lines([line.buckets for line in lanes]),
        }
        return Query(self._sql(CLAIM_TURNS), read, params)


def _only_share(lanes: Sequence[Line], room: int) -> bool:
    """Whether lanes of one priority have no buckets, and all that is asked of them has room."""
    priority = lanes[0].priority
    alike = all(line.buckets == "[]" and line.priority == priority for line in lanes)
    return alike and sum([line.most for line in lanes]) <= room


def by_lane(jobs: Iterable[ClaimedJob]) -> Mapping[LaneKey, Sequence[ClaimedJob]]:
    """Return the jobs of each lane, the first one first."""
    lanes: defaultdict[LaneKey, list[ClaimedJob]] = defaultdict(list)
    for job in jobs:
        lanes[job.lane, job.priority].append(job)
    for of_lane in lanes.values():
        if len(of_lane) > 1:
            of_lane.sort(key=_PLACE)
    return lanes


def in_turn(lanes: Sequence[Line], jobs: Mapping[LaneKey, Sequence[ClaimedJob]]) -> list[ClaimedJob]:
    """Return the jobs in the order of turns: a lane of which three times as many were asked has three.

    Of many lanes each has all its turns together: whoever writes that its jobs have ended then has fewer buckets to
    give back at once. Such a claim brings no more than begins within a tenth of a second.
    """
    if len(lanes) > MANY_LANES:
        first = sorted(jobs, key=lambda key: -key[1])
        return [job for key in first for job in jobs[key]]
    places: dict[LaneKey, tuple[int, int]] = {}
    for at, line in enumerate(lanes):
        places[line.lane, line.priority] = at, line.most
    turns = []
    for key, of_lane in jobs.items():
        at, most = places[key]
        turns += [(-key[1], turn / most, at, job) for turn, job in enumerate(of_lane, 1)]
    turns.sort(key=_TURN)
    return [job for *_, job in turns]
