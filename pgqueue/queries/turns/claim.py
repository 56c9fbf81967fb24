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
from pgqueue.queries.jobs.metered_parts import LANE
from pgqueue.queries.jobs.parts import NOT_PAUSED
from pgqueue.queries.jobs.turns import PAUSED, TURN_AT, WAITS
from pgqueue.queries.turns.claim_parts import (
    ALONG,
    BUCKETS,
    FIRST,
    KEEPS_NOTHING,
    KEEPS_THESE,
    MAY_CLAIM,
    SKIPPING,
    WAITING,
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
_CLAIM_TURNS: LiteralString = fill(
    r"""
with line as materialized (
    select l.ord, l.lane, l.priority, l.buckets::jsonb as buckets, l.most, l.run_at, l.id{keeps}
    from unnest((select %(lanes)s::bigint[]), (select %(priorities)s::smallint[]),
                (select string_to_array(%(buckets)s, E'\n')), (select %(mosts)s::int[]),
                (select %(run_ats)s::timestamptz[]), (select %(ids)s::bigint[]){kept})
         with ordinality as l(lane, priority, buckets, most, run_at, id{kept_as}, ord)
    where {may_claim}
), part as materialized (
    select l.ord, b.name from line l cross join lateral jsonb_array_elements_text(l.buckets) as b(name){wanted}
), {buckets}, room as (
    select p.ord, min(case when f.name is null then 0 else f.room end) as room
    from part p left join free f on f.name = p.name group by p.ord
), open as materialized (
    select l.*, least(r.room, l.most) as room
    from line l left join room r on r.ord = l.ord{that_may}
), candidate as materialized (
    {along}
    union all
    {first}
){sure}, numbered as (
    select c.ord, c.priority, c.id, row_number() over (partition by c.ord order by c.at, c.id) as n
    from {candidates} c
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
select {claimed}""",
    may_claim=MAY_CLAIM,
    buckets=fill(BUCKETS, held=SKIPPING),
)
CLAIM_TURNS: LiteralString = fill(
    _CLAIM_TURNS,
    keeps="",
    kept="",
    kept_as="",
    wanted="",
    that_may="",
    along=fill(ALONG, held=""),
    first=fill(FIRST, held=KEEPS_NOTHING),
    sure="",
    candidates="candidate",
    moved=MOVED,
    claimed=fill("{claimed} from moved", claimed=CLAIMED),
)

# The jobs of CLAIM_KEPT go back to the lane that their flow says, and are returned with that from which they came.
_MOVED_BACK: LiteralString = fill(
    """{moved}, let_go as (
    delete from {s}.limit_hold h where h.job_id = any(array(select id from moved))
)""",
    moved=MOVED.replace("set state = 'running',", "set state = 'running', lane = {home},"),
).replace("{home}", fill(LANE, headers="j.headers::jsonb"))
_CLAIMED_APART: LiteralString = fill(
    """{claimed} from moved
join (select p.id as picked, l.lane as of_lane from picked p join line l on l.ord = p.ord) as k
    on k.picked = moved.id""",
    claimed=CLAIMED.replace(", lane, ties", ", of_lane, ties"),
)

# Claim jobs that have kept places while they waited: what CLAIM_TURNS does, with the same promises, from lanes of such
# jobs. They take only what they have not kept, whatever the limits of the others say by now; but a pause or a closed
# bucket holds them back as well. They go on with all their buckets, in the lane from which they came.
# `sure` locks the kept places, so that one that was given back since the snapshot counts no more; who gives back has
# locked the job first, as here. The naive form believes the snapshot, and the job takes along a place that another one
# has by now. By the primary key of limit_hold, a probe for each job.
CLAIM_KEPT: LiteralString = fill(
    _CLAIM_TURNS,
    keeps=", l.kept::jsonb as kept",
    kept=r", (select string_to_array(%(kepts)s, E'\n'))",
    kept_as=", kept",
    wanted="\n    where (l.kept ? b.name) is not true",
    that_may="""
    where not exists (
        select from jsonb_array_elements_text(l.kept) as b(name)
        left join {s}.limit_rule r on r.name = split_part(b.name, '/', 1)
        left join {s}.limit_key k on k.rule = split_part(b.name, '/', 1)
            and k.key = substr(b.name, char_length(split_part(b.name, '/', 1)) + 2)
        left join lateral (
            select f.closed_until from {s}.limit_freed f where f.name = b.name order by f.version desc limit 1
        ) as f on true
        where {rule_paused} or {key_paused} or f.closed_until > now())""",
    along=fill(ALONG, held=KEEPS_THESE),
    first=fill(FIRST, held=KEEPS_THESE),
    sure=""", sure as materialized (
    select c.* from candidate c join line l on l.ord = c.ord
    where l.kept = (
        select jsonb_agg(h.bucket order by h.bucket) from (
            select h.bucket from {s}.limit_hold h where h.job_id = c.id for update skip locked) as h)
)""",
    candidates="sure",
    moved=_MOVED_BACK,
    claimed=_CLAIMED_APART,
    rule_paused=fill(PAUSED, p="r"),
    key_paused=fill(PAUSED, p="k"),
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
    may_claim=MAY_CLAIM,
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
    may_claim=MAY_CLAIM,
    buckets=fill(BUCKETS, held=WAITING),
    moved=MOVED,
    claimed=CLAIMED,
)
CLAIM_LANE: LiteralString = fill(_CLAIM_LANE, candidates=fill(ALONG, held=""))
CLAIM_FIRST: LiteralString = fill(_CLAIM_LANE, candidates=fill(FIRST, held=KEEPS_NOTHING))


LaneKey: TypeAlias = tuple[int | None, int]  # the number and the priority of a lane
MANY_LANES = 64  # a claim from more lanes asks a few jobs of each
_PLACE = attrgetter("run_at", "id")  # of a job in its lane
_TURN = itemgetter(0, 1, 2)


class Line(NamedTuple):
    """A lane of metered jobs from which to claim at most so many: its number and priority, its buckets as JSON text,
    and the place after which to begin. `kept`: those of its buckets that its jobs have kept while they waited."""

    lane: int
    priority: int
    buckets: str
    most: int
    run_at: datetime | None = None
    id: int = 0
    kept: str | None = None


class ClaimedTurns(NamedTuple):
    """The jobs that a claim has brought, in the order of turns, and those of each lane."""

    jobs: Sequence[ClaimedJob]
    lanes: Mapping[LaneKey, Sequence[ClaimedJob]]


class TurnClaimQueries(Statements):
    """Claiming metered jobs."""

    def claim(self, worker: UUID, queue: str, lanes: Sequence[Line], *, room: int, slots: int) -> Query[ClaimedTurns]:
        """Claim up to `room` due jobs from these lanes of a queue, of which `slots` would begin at once.

        The jobs of all of these lanes have kept places while they waited, or those of none.
        """

        def read(rows: Sequence[Row]) -> ClaimedTurns:
            found = by_lane(claimed_jobs(rows, worker))
            return ClaimedTurns(in_turn(lanes, found), found)

        params: dict[str, Any] = {"worker": worker, "queue": queue, "room": room, "slots": slots}
        starts = [line.run_at.astimezone(UTC).isoformat() if line.run_at else "-infinity" for line in lanes]
        if len(lanes) == 1 and lanes[0].kept is None:
            lane = lanes[0]
            params |= {name: value for name, value in lane._asdict().items() if name != "kept"} | {"run_at": starts[0]}
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
        if lanes[0].kept is not None:
            params["kepts"] = lines([line.kept for line in lanes])
            return Query(self._sql(CLAIM_KEPT), read, params)
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
