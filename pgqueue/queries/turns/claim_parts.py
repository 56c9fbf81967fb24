"""SQL that claims of metered jobs have in common: the room of buckets, and the jobs of lanes."""

from typing import LiteralString

from pgqueue.queries.base import fill
from pgqueue.queries.jobs.parts import NOT_PAUSED, PAUSED
from pgqueue.queries.jobs.turns import HELD_BY, ROOM, RULES, TURN_AT, WAITS

# Lock the counters of the buckets in `part`, in the order of their names, and tell what each has room for. `instant` is
# the time by which rates are judged, read when all locks are held. What jobs have given back is read as the snapshot of
# this statement has it, without a lock: of a bucket that has changed since, it takes more jobs for running than do.
BUCKETS: LiteralString = fill(
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
WAITING: LiteralString = """select s.version as seen, u.* from seen s
    cross join lateral (
        select * from {s}.limit_use u where u.name = any(array[s.name]) and u.version >= s.version for update) as u"""
# Where many lanes are claimed from, a bucket that is one lane's alone and that somebody has locked just now is left for
# the next claim: with a thousand buckets, the claims of several workers would wait for each other all the time.
SKIPPING: LiteralString = fill(
    """{waiting}
    where s.shared or (select count(*) <= 32 from line)
    union all
    {skipping}
    where not s.shared and (select count(*) > 32 from line)""",
    waiting=WAITING,
    skipping=WAITING.replace("for update) as u", "for update skip locked) as u"),
)
# The jobs of each lane that is `open`, as many as it has room for, locked; and of a lane in order its first job only.
# `{{held}}`: whether a job has kept its places, those that the lane says, or none.
ALONG: LiteralString = fill(
    """select o.ord, o.priority, c.id, c.at from open o
    cross join lateral (
        select j.id, {turn_at} as at from {s}.job_live j
        where {waits} and j.queue::text = (select %(queue)s::text) and j.lane::bigint = o.lane
        and j.priority::smallint = o.priority and ({turn_at}, j.id) > (o.run_at, o.id) and {turn_at} <= now()
        and (j.expires_at is null or j.expires_at > now() or j.attempt > 0) and {not_paused}
        and j.headers::jsonb -> '$flow'::text -> 'buckets'::text = o.buckets{held}
        order by {turn_at}, j.id limit o.room for update skip locked
    ) as c
    where o.lane >= 0 and o.room > 0""",
    waits=WAITS,
    turn_at=TURN_AT,
    not_paused=NOT_PAUSED,
)
FIRST: LiteralString = fill(
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
        and j.headers::jsonb -> '$flow'::text -> 'buckets'::text = o.buckets{held}
        limit 1 for update skip locked
    ) as c
    where o.lane < 0 and o.room > 0""",
    waits=WAITS,
    turn_at=TURN_AT,
    not_paused=NOT_PAUSED,
)
# Whether a job has kept no places while it waited, for claims of lanes in order: others that have are in lanes apart.
KEEPS_NOTHING: LiteralString = fill("\n        and {kept} is null", kept=fill(HELD_BY, job="j"))
KEEPS_THESE: LiteralString = fill("\n        and {kept} = o.kept", kept=fill(HELD_BY, job="j"))

# Whether jobs of the queue may be claimed by this worker.
MAY_CLAIM: LiteralString = fill(
    """not exists (select from {s}.queue q where q.name = (select %(queue)s::text) and {paused})
    and not exists (select from {s}.worker w where w.id = (select %(worker)s::uuid) and w.lost_at is not null)""",
    paused=PAUSED,
)
